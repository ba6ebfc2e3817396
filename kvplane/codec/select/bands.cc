#include "kvplane/codec/select/bands.h"

#include <algorithm>

#include "kvplane/base/check.h"

namespace kvplane::codec {
namespace {

bool TakesLow(const StageCall& quantizer) {
  const auto params = StageOf(quantizer).params;
  return std::any_of(params.begin(), params.end(), [](const ParamSpec& spec) { return spec.name == "low"; });
}

base::Status CheckHasLow(Chain chain, size_t at) {
  const StageCall* quantizer = FindCall(chain, Slot::kQuantize);
  if (quantizer != nullptr && TakesLow(*quantizer)) return base::Status::Ok();
  return base::InvalidArgument(
      "bands: '{}' makes a low precision band; only a quantizer with a parameter 'low' has one, such as "
      "'levels'",
      StageOf(chain[at]).name);
}

base::Status ValidateHeads(Chain chain, size_t at) {
  for (const StageCall& call : chain) {
    const auto needs_all_heads = StageOf(call).functions->needs_all_heads;
    if (needs_all_heads != nullptr && needs_all_heads(call)) {
      return base::InvalidArgument("bands: '{}' mixes the heads of a layer; 'heads' cannot tell them apart",
                                   StageOf(call).name);
    }
  }
  return CheckHasLow(chain, at);
}

uint64_t Share(uint64_t count, uint32_t percent) { return (count * percent + 50) / 100; }

bool HeadIsLow(const StageCall& call, const ModelProfileData& profile, const TileContext& context,
               uint32_t head) {
  const size_t at = size_t{context.layer} * profile.geometry.kv_heads + context.first_head + head;
  KVPLANE_CHECK(at < profile.head_rank.size());
  return profile.head_rank[at] < Share(profile.head_rank.size(), call.params[0]);
}

bool LayerIsLow(const StageCall& call, const TileContext& context) {
  const uint64_t low = Share(context.layers, call.params[1]);
  return call.params[0] == 0 ? context.layer + low >= context.layers : context.layer < low;
}

}  // namespace

constinit const StageFunctions kHeadsFunctions = {
    .validate = ValidateHeads,
    .least_bytes = nullptr,
    .encode = nullptr,
    .decode = nullptr,
    .needs_profile = [](const StageCall&) { return true; },
};
constinit const StageFunctions kLayersFunctions = {CheckHasLow, nullptr, nullptr, nullptr};

bool HasBands(Chain chain) {
  return FindCall(chain, kStageHeads) != nullptr || FindCall(chain, kStageLayers) != nullptr;
}

base::Status CheckLowHasBand(Chain chain, size_t at, uint32_t low) {
  if (low == 0 || HasBands(chain)) return base::Status::Ok();
  return base::InvalidArgument("bands: '{}' has low = {} without a band; put 'heads' or 'layers' before it",
                               StageOf(chain[at]).name, low);
}

base::Status CheckBands(Chain chain, const ModelProfile* profile) {
  if (FindCall(chain, kStageHeads) == nullptr) return base::Status::Ok();
  if (profile == nullptr || profile->data().head_rank.empty()) {
    return base::FailedPrecondition("heads: the profile does not rank the heads of the model");
  }
  return base::Status::Ok();
}

bool InLowBand(Chain chain, const ModelProfile* profile, const TileContext& context, uint32_t head) {
  const StageCall* layers = FindCall(chain, kStageLayers);
  if (layers != nullptr && LayerIsLow(*layers, context)) return true;
  const StageCall* heads = FindCall(chain, kStageHeads);
  if (heads == nullptr) return false;
  KVPLANE_CHECK(profile != nullptr);
  return HeadIsLow(*heads, profile->data(), context, head);
}

}  // namespace kvplane::codec
