// The Hadamard transform of one row, once for all instruction sets (as in row_frame_definition.h).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/hadamard/hadamard.h"
#include "kvplane/kernel/hadamard/paley.h"
#include "kvplane/kernel/row_frame/row_frame_definition.h"

namespace kvplane::kernel::internal {

// x: [n], n a power of two.
template <uint32_t kDistance>
KVPLANE_ROW_INLINE void ButterfliesAt(float* x, uint32_t n) {
  for (uint32_t i = 0; i < n; i += 2 * kDistance) {
    for (uint32_t j = 0; j < kDistance; ++j) {
      const float a = x[i + j];
      const float b = x[i + j + kDistance];
      x[i + j] = a + b;
      x[i + j + kDistance] = a - b;
    }
  }
}

KVPLANE_ROW_INLINE void Butterflies(float* x, uint32_t n) {
  if (n >= 2) ButterfliesAt<1>(x, n);
  if (n >= 4) ButterfliesAt<2>(x, n);
  if (n >= 8) ButterfliesAt<4>(x, n);
  for (uint32_t distance = 8; distance < n; distance *= 2) {
    for (uint32_t i = 0; i < n; i += 2 * distance) {
      float* __restrict low = x + i;
      float* __restrict high = x + i + distance;
      for (uint32_t j = 0; j < distance; ++j) {
        const float a = low[j];
        const float b = high[j];
        low[j] = a + b;
        high[j] = a - b;
      }
    }
  }
}

// x: [order, block]; `lanes` columns of it from `first` on.
template <uint32_t kLanes>
KVPLANE_ROW_INLINE void MixColumns(const PaleyMatrix& matrix, uint32_t order, uint32_t block, uint32_t first,
                                   const float* __restrict x, float* __restrict y) {
  for (uint32_t r = 0; r < order; ++r) {
    float sum[kLanes] = {};
    for (uint32_t c = 0; c < order; ++c) {
      const uint32_t sign = (matrix[r] >> c & 1u) << 31;
      const float* __restrict from = x + c * block + first;
      for (uint32_t j = 0; j < kLanes; ++j) {
        sum[j] += std::bit_cast<float>(std::bit_cast<uint32_t>(from[j]) ^ sign);
      }
    }
    for (uint32_t j = 0; j < kLanes; ++j) y[r * block + first + j] = sum[j];
  }
}

KVPLANE_ROW_INLINE void MixRows(const PaleyMatrix& matrix, uint32_t order, uint32_t block, float* x) {
  alignas(64) float y[kMaxRowChannels];
  uint32_t first = 0;
  for (; first + 16 <= block; first += 16) MixColumns<16>(matrix, order, block, first, x, y);
  if (block % 16 == 8) MixColumns<8>(matrix, order, block, first, x, y);
  if (block == 4) MixColumns<4>(matrix, order, block, first, x, y);
  if (block == 2) MixColumns<2>(matrix, order, block, first, x, y);
  if (block == 1) MixColumns<1>(matrix, order, block, first, x, y);
  for (uint32_t i = 0; i < order * block; ++i) x[i] = y[i];
}

KVPLANE_ROW_INLINE void TransformRow(const HadamardPlan& plan, bool inverse, float* x) {
  for (const HadamardSegment& segment : plan.segments()) {
    float* from = x + segment.first;
    for (uint32_t i = 0; i < segment.paley; ++i) Butterflies(from + i * segment.block, segment.block);
    if (segment.paley > 1) MixRows(PaleyOf(segment.paley, inverse), segment.paley, segment.block, from);
  }
}

template <bool kRope, bool kMean>
KVPLANE_ROW_INLINE void ForwardRows(const HadamardPlan& plan, const uint16_t* const* rows, uint32_t tokens,
                                    const RowFrame& frame, const float* __restrict gains, uint16_t* out,
                                    size_t stride) {
  alignas(64) float row[kMaxRowChannels];
  const uint32_t n = plan.n();
  for (uint32_t t = 0; t < tokens; ++t, out += stride) {
    RemoveRow<kRope, kMean>(rows[t], n, RopeRow<kRope>(frame, t), frame, row);
    for (uint32_t c = 0; c < n; ++c) row[c] *= gains[c];
    TransformRow(plan, false, row);
    uint16_t* __restrict to = out;
    for (uint32_t c = 0; c < n; ++c) to[c] = ToBf16(row[c]);
  }
}

template <bool kRope, bool kMean>
KVPLANE_ROW_INLINE void InverseRows(const HadamardPlan& plan, const uint16_t* in, size_t stride,
                                    uint32_t tokens, const RowFrame& frame, const float* __restrict gains,
                                    uint16_t* const* rows) {
  alignas(64) float row[kMaxRowChannels];
  const uint32_t n = plan.n();
  for (uint32_t t = 0; t < tokens; ++t, in += stride) {
    for (uint32_t c = 0; c < n; ++c) row[c] = FromBf16(in[c]);
    TransformRow(plan, true, row);
    for (uint32_t c = 0; c < n; ++c) row[c] *= gains[c];
    RestoreRow<kRope, kMean>(row, n, RopeRow<kRope>(frame, t), frame, rows[t]);
  }
}

// One kernel per kind of frame: [rotated][centred].
struct HadamardVariants {
  using Forward = void(const HadamardPlan&, const uint16_t* const*, uint32_t, const RowFrame&, const float*,
                       uint16_t*, size_t);
  using Inverse = void(const HadamardPlan&, const uint16_t*, size_t, uint32_t, const RowFrame&, const float*,
                       uint16_t* const*);

  Forward* forward[2][2];
  Inverse* inverse[2][2];
};

extern const HadamardVariants kHadamardScalar;
extern const HadamardVariants kHadamardAvx2;
extern const HadamardVariants kHadamardAvx512;

}  // namespace kvplane::kernel::internal
