#include <algorithm>
#include <cmath>

#include "kvplane/kernel/ecsq/ecsq_measure.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {

EcsqMeasureFunction EcsqMeasure(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return internal::EcsqMeasureAvx512;
    case Isa::kAvx2:
      return internal::EcsqMeasureAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::EcsqMeasureScalar;
}

EcsqMeasureFunction EcsqMeasure() { return EcsqMeasure(ActiveIsa()); }

namespace internal {

bool EcsqMeasureScalar(const EcsqRows& shape, const uint16_t* const* rows, const EcsqLanes& lanes,
                       const EcsqMeasures& measures) {
  uint16_t magnitude = 0;
  for (uint32_t h = 0; h < shape.heads; ++h) {
    for (uint32_t c = 0; c < shape.head_dim; ++c) {
      const size_t slot = shape.slot(h, c);
      float largest = 0.0f;
      float energy = 0.0f;
      for (uint32_t t = 0; t < shape.tokens; ++t) {
        const uint16_t bits = rows[t][h * shape.head_stride + c];
        magnitude = std::max(magnitude, static_cast<uint16_t>(bits & 0x7fff));
        const float centred = tensor::Bf16ToFloat(bits) - lanes.mean[slot];
        const float level = centred * lanes.inverse_step[slot];
        largest = std::max(largest, std::fabs(level));
        const float square = level * level;
        energy = energy + square;
      }
      measures.largest[slot] = largest;
      measures.energy[slot] = energy;
    }
  }
  return magnitude < kRansMagnitudeLimit;
}

}  // namespace internal
}  // namespace kvplane::kernel
