#include <algorithm>
#include <bit>
#include <cmath>

#include "kvplane/kernel/ecsq/nested_rows.h"
#include "kvplane/kernel/rans/rans_driver.h"

namespace kvplane::kernel {
namespace {

using internal::LiveLanes;

struct Core {
  static constexpr bool kPicksRows = false;
  static void Pick(const RansPick*, const uint32_t* sources, uint32_t count, const uint16_t* absent,
                   const uint16_t* from, uint16_t* to) {
    internal::PickOne(sources, count, absent, from, to);
  }
  static void Copy(const uint16_t* from, uint32_t count, bool /*streaming*/, uint16_t* to) {
    std::copy_n(from, count, to);
  }
};

// One group of one token to levels of the finest step. Returns the largest magnitude pattern.
uint16_t QuantizeGroup(const uint16_t* row, uint32_t live, const RansScale& scale, float lowest,
                       float highest, float* largest, int16_t* levels) {
  constexpr float kMagic = 0x1.8p23f;  // adding it rounds to nearest even and leaves the integer below
  uint16_t magnitude = 0;
  std::fill_n(levels, kRansLanes, int16_t{0});
  for (uint32_t lane = 0; lane < live; ++lane) {
    magnitude = std::max(magnitude, static_cast<uint16_t>(row[lane] & 0x7fff));
    const uint32_t i = RansScale::index(lane);
    const float centred = tensor::Bf16ToFloat(row[lane]) - scale.mean[i];
    const float scaled = centred * scale.inverse_step[i];
    largest[i] = std::max(largest[i], std::fabs(scaled));
    const float clamped = std::min(std::max(scaled, lowest), highest);
    levels[lane] =
        static_cast<int16_t>(std::bit_cast<int32_t>(clamped + kMagic) - std::bit_cast<int32_t>(kMagic));
  }
  return magnitude;
}

// The level whose bin of three holds level q.
int16_t ParentOf(int16_t q) {
  constexpr int32_t kOffset = 30000;  // a multiple of 3, to divide what is not negative
  return static_cast<int16_t>((q + 1 + kOffset) / 3 - kOffset / 3);
}

bool ToLevels(const RansShape& shape, const RansRows& layout, uint32_t layers, const uint16_t* const* rows,
              int16_t* const* levels) {
  const internal::RowPieces pieces = internal::PiecesOf(shape, layout);
  const int32_t unit = kPowerOfThree[layers];
  size_t at = 0;
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    const uint16_t* const row =
        RansNeedsScratch(layout) ? internal::StageIn<Core>(shape, layout, 0, rows[t], nullptr) : rows[t];
    for (uint32_t g = 0; g < shape.groups(); ++g, at += kRansLanes) {
      const uint16_t* const group =
          row + g / pieces.head_groups * pieces.head_stride + g % pieces.head_groups * kRansLanes;
      const auto lowest = static_cast<float>(shape.rungs[g].min_level() * unit - unit / 2);
      const auto highest = static_cast<float>(shape.rungs[g].max_level() * unit + unit / 2);
      if (QuantizeGroup(group, LiveLanes(shape, g), layout.scales[g], lowest, highest,
                        layout.largest + size_t{g} * kRansLanes,
                        levels[layers] + at) >= kRansMagnitudeLimit) {
        return false;
      }
      for (uint32_t s = layers; s > 0; --s) {
        std::transform(levels[s] + at, levels[s] + at + kRansLanes, levels[s - 1] + at, ParentOf);
      }
    }
  }
  return true;
}

void FromLevels(const RansShape& shape, const RansRows& layout, uint32_t missing, const int16_t* levels,
                uint16_t* const* rows) {
  const internal::RowPieces pieces = internal::PiecesOf(shape, layout);
  const bool staged = RansNeedsScratch(layout);
  const int32_t unit = kPowerOfThree[missing];
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    uint16_t* const row = staged ? internal::LaneRow(layout, 0) : rows[t];
    for (uint32_t g = 0; g < shape.groups(); ++g, levels += kRansLanes) {
      uint16_t* const group =
          row + g / pieces.head_groups * pieces.head_stride + g % pieces.head_groups * kRansLanes;
      const RansScale& scale = layout.scales[g];
      for (uint32_t lane = 0; lane < LiveLanes(shape, g); ++lane) {
        const uint32_t i = RansScale::index(lane);
        const float scaled = static_cast<float>(levels[lane] * unit) * scale.step[i];
        const float value = scaled + scale.mean[i];
        const bool subnormal = std::fabs(value) < 0x1p-126f;
        group[lane] = tensor::FloatToBf16(subnormal ? std::copysign(0.0f, value) : value);
      }
    }
    if (staged) internal::StageOut<Core>(layout, 0, rows[t], nullptr);
  }
}

}  // namespace

namespace internal {
const NestedRowKernels kNestedRowsScalar = {ToLevels, FromLevels};
}  // namespace internal

const NestedRowKernels& NestedRows(Isa isa) {
  return isa == Isa::kAvx512 ? internal::kNestedRowsAvx512 : internal::kNestedRowsScalar;
}

const NestedRowKernels& NestedRows() { return NestedRows(ActiveIsa()); }

}  // namespace kvplane::kernel
