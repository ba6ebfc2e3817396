#include "kvplane/codec/affine/affine_stage.h"

#include <algorithm>

namespace kvplane::codec {
namespace {

base::Status Validate(Chain chain, size_t at) {
  // Groups and scales are all the state there is: any code stage that takes symbols may follow.
  if (at + 1 < chain.size() && chain[at + 1].stage_id == kStageStore) {
    return base::InvalidArgument(
        "L1: 'store' takes bf16 values, 'affine' makes symbols; use 'pack' after it");
  }
  return base::Status::Ok();
}

uint32_t DivideUp(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

}  // namespace

AffineConfig AffineConfig::Of(const StageCall& call) {
  return {call.params[0], call.params[1], static_cast<AffineAxis>(call.params[2])};
}

size_t AffineConfig::GroupsPerHead(const TileShape& shape) const {
  return axis == AffineAxis::kChannel ? size_t{DivideUp(shape.tokens, group)} * shape.head_dim
                                      : size_t{shape.tokens} * DivideUp(shape.head_dim, group);
}

constinit const StageFunctions kAffineFunctions = {Validate, nullptr, nullptr, nullptr, nullptr};

}  // namespace kvplane::codec
