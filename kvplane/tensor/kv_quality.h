// What is left of KV after everything that was done to it, on one scale for transfers and stores.
//
// Thread safety: a constant.
#pragma once

#include <cstdint>

namespace kvplane::tensor {

// Quality of KV relative to what the model computes, in thousandths. This: nothing was lost. 0: it was coded
// with loss, and nobody has measured how much. The value is on the wire and on disk (docs/formats): never
// change it.
constexpr uint16_t kExactQuality = 1000;

}  // namespace kvplane::tensor
