#include "kvplane/codec/transform/transform_rules.h"

namespace kvplane::codec {

base::Status CheckBeforeQuantizer(Chain chain, size_t at) {
  if (FindCall(chain.subspan(at + 1), Slot::kQuantize) != nullptr) return base::Status::Ok();
  return base::InvalidArgument(
      "L1: '{}' makes values for a quantiser; put a quantize stage such as 'affine' after it",
      StageOf(chain[at]).name);
}

}  // namespace kvplane::codec
