#include "kvplane/codec/transform/pca_stage.h"

#include "kvplane/codec/transform/transform_rules.h"

namespace kvplane::codec {
namespace {

bool IsLayer(const StageCall& call) { return call.params[0] == static_cast<uint32_t>(PcaScope::kLayer); }
bool NeedsProfile(const StageCall&) { return true; }

}  // namespace

Basis BasisOf(const StageCall& call) {
  const bool attention = call.params[1] == static_cast<uint32_t>(PcaMetric::kAttention);
  if (IsLayer(call)) return attention ? Basis::kLayerAttention : Basis::kLayer;
  return attention ? Basis::kHeadAttention : Basis::kHead;
}

constinit const StageFunctions kPcaFunctions = TransformStage(NeedsProfile, IsLayer);

}  // namespace kvplane::codec
