#include <algorithm>
#include <cmath>

#include "kvplane/kernel/ecsq/level_rows.h"
#include "kvplane/tensor/dtype.h"

// The definition.

namespace kvplane::kernel {
namespace {

int32_t Magnitude(int8_t level) { return level < 0 ? -int32_t{level} : int32_t{level}; }

int8_t LevelOf(uint16_t bits, float mean, float inverse_step) {
  const float centred = tensor::Bf16ToFloat(bits) - mean;
  const float scaled = centred * inverse_step;
  constexpr float kInt32 = 0x1p31f;
  if (!(scaled >= -kInt32 && scaled < kInt32)) return -128;
  return static_cast<int8_t>(std::nearbyintf(std::min(std::max(scaled, -128.0f), 127.0f)));
}

size_t OffsetOf(const LevelRows& shape, uint32_t element) {
  return element / shape.head_dim * shape.head_stride + element % shape.head_dim;
}

void LevelsFromRows(const LevelRows& shape, const ToLevels& how, const uint16_t* const* rows, int8_t* levels,
                    uint32_t* sums) {
  const uint32_t lanes = shape.elements();
  std::fill_n(sums, shape.groups(), 0u);
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    const uint32_t element = lane / kLevelWindow * kLevelWindow + how.element_of_lane[lane];
    const size_t at = OffsetOf(shape, element);
    uint32_t sum = 0;
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      const int8_t level = LevelOf(rows[t][at], how.mean[element], how.inverse_step[element]);
      levels[size_t{t} * lanes + lane] = level;
      sum += static_cast<uint32_t>(std::min<int32_t>(Magnitude(level), how.cap[lane]));
    }
    sums[lane / kLevelGroup] += sum * static_cast<uint32_t>(how.weight[lane]);
  }
}

size_t FindAbove(const LevelRows& shape, const uint8_t* highest, const int8_t* levels, size_t room,
                 uint32_t* positions) {
  const uint32_t lanes = shape.elements();
  size_t count = 0;
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      if (Magnitude(levels[size_t{t} * lanes + lane]) <= highest[lane]) continue;
      if (count < room) positions[count] = LevelPosition(t, lane);
      ++count;
    }
  }
  return count;
}

}  // namespace

namespace internal {
const LevelRowKernels kLevelRowsScalar = {LevelsFromRows, FindAbove};
}  // namespace internal

const LevelRowKernels& LevelRowsOf(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return internal::kLevelRowsAvx512;
    case Isa::kAvx2:
      return internal::kLevelRowsAvx2;
    case Isa::kScalar:
      break;
  }
  return internal::kLevelRowsScalar;
}

const LevelRowKernels& LevelRowsOf() { return LevelRowsOf(ActiveIsa()); }

}  // namespace kvplane::kernel
