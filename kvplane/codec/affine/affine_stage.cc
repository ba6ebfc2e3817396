#include "kvplane/codec/affine/affine_stage.h"

#include <algorithm>

namespace kvplane::codec {
namespace {

// Groups and scales are all the state there is: any code stage that takes symbols may follow, and those that
// do not say so themselves.
base::Status Validate(Chain, size_t) { return base::Status::Ok(); }

uint32_t DivideUp(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

}  // namespace

AffineConfig AffineConfig::Of(const StageCall& call) {
  return {call.params[0], call.params[1], static_cast<AffineAxis>(call.params[2])};
}

size_t AffineConfig::GroupsPerHead(const TileShape& shape) const {
  return axis == AffineAxis::kChannel ? size_t{DivideUp(shape.tokens, group)} * shape.head_dim
                                      : size_t{shape.tokens} * DivideUp(shape.head_dim, group);
}

constinit const StageFunctions kAffineFunctions = {Validate, nullptr, nullptr, nullptr};

}  // namespace kvplane::codec
