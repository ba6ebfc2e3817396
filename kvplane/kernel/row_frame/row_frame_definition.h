// The row frame kernels once for all instruction sets: plain loops that the compiler turns into vectors of
// the set they are inlined for. Without contraction (CMakeLists.txt) the operations are the same everywhere.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/row_frame/row_frame.h"

#define KVPLANE_ROW_INLINE inline __attribute__((always_inline))

namespace kvplane::kernel::internal {

constexpr float kLargestBf16 = std::bit_cast<float>(0x7f7f0000u);

KVPLANE_ROW_INLINE float FromBf16(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }
KVPLANE_ROW_INLINE float FromBf16(float x) { return x; }

// To nearest even, magnitudes below 2^-126 to zero: what vcvtneps2bf16 does.
KVPLANE_ROW_INLINE uint16_t ToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7f800000u) == 0 ? bits >> 16 & 0x8000u : rounded);
}

// The comparisons are those of minps and maxps: NaN becomes the largest.
KVPLANE_ROW_INLINE float Saturated(float x) {
  const float below = x < kLargestBf16 ? x : kLargestBf16;
  return below > -kLargestBf16 ? below : -kLargestBf16;
}

// y: [channels] f32; rope: the row's cos and sin, not null if kRope.
template <bool kRope, bool kMean>
KVPLANE_ROW_INLINE void RemoveRow(const uint16_t* __restrict x, uint32_t channels, const float* rope,
                                  const RowFrame& frame, float* __restrict y) {
  const float* __restrict mean = frame.mean;
  uint32_t c = 0;
  if constexpr (kRope) {
    const uint32_t half = frame.half;
    const float scale = frame.scale;
    const float* __restrict cos = rope;
    const float* __restrict sin = rope + half;
    const uint16_t* __restrict x_high = x + half;
    const float* __restrict mean_high = kMean ? mean + half : nullptr;
    float* __restrict y_high = y + half;
    for (uint32_t i = 0; i < half; ++i) {
      const float a = FromBf16(x[i]);
      const float b = FromBf16(x_high[i]);
      const float low = (a * cos[i] + b * sin[i]) * scale;
      const float high = (b * cos[i] - a * sin[i]) * scale;
      y[i] = kMean ? low - mean[i] : low;
      y_high[i] = kMean ? high - mean_high[i] : high;
    }
    c = 2 * half;
  }
  for (; c < channels; ++c) y[c] = kMean ? FromBf16(x[c]) - mean[c] : FromBf16(x[c]);
}

template <bool kRope, bool kMean, typename Element>
KVPLANE_ROW_INLINE void RestoreRow(const Element* __restrict y, uint32_t channels, const float* rope,
                                   const RowFrame& frame, uint16_t* __restrict x) {
  const float* __restrict mean = frame.mean;
  uint32_t c = 0;
  if constexpr (kRope) {
    const uint32_t half = frame.half;
    const float* __restrict cos = rope;
    const float* __restrict sin = rope + half;
    const Element* __restrict y_high = y + half;
    const float* __restrict mean_high = kMean ? mean + half : nullptr;
    uint16_t* __restrict x_high = x + half;
    for (uint32_t i = 0; i < half; ++i) {
      const float a = kMean ? FromBf16(y[i]) + mean[i] : FromBf16(y[i]);
      const float b = kMean ? FromBf16(y_high[i]) + mean_high[i] : FromBf16(y_high[i]);
      x[i] = ToBf16(Saturated(a * cos[i] - b * sin[i]));
      x_high[i] = ToBf16(Saturated(b * cos[i] + a * sin[i]));
    }
    c = 2 * half;
  }
  for (; c < channels; ++c) {
    x[c] = ToBf16(Saturated(kMean ? FromBf16(y[c]) + mean[c] : FromBf16(y[c])));
  }
}

template <bool kRope>
KVPLANE_ROW_INLINE const float* RopeRow(const RowFrame& frame, uint32_t token) {
  return kRope ? frame.rope[token] : nullptr;
}

template <bool kRope>
KVPLANE_ROW_INLINE void SumRows(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                const RowFrame& frame, float* __restrict sums) {
  alignas(64) float row[kMaxRowChannels];
  for (uint32_t c = 0; c < channels; ++c) sums[c] = 0.0f;
  for (uint32_t t = 0; t < tokens; ++t) {
    RemoveRow<kRope, false>(rows[t], channels, RopeRow<kRope>(frame, t), frame, row);
    for (uint32_t c = 0; c < channels; ++c) sums[c] += row[c];
  }
}

template <bool kRope, bool kMean>
KVPLANE_ROW_INLINE void RemoveRows(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                   const RowFrame& frame, uint16_t* out, size_t stride) {
  alignas(64) float row[kMaxRowChannels];
  for (uint32_t t = 0; t < tokens; ++t, out += stride) {
    RemoveRow<kRope, kMean>(rows[t], channels, RopeRow<kRope>(frame, t), frame, row);
    uint16_t* __restrict to = out;
    for (uint32_t c = 0; c < channels; ++c) to[c] = ToBf16(row[c]);
  }
}

template <bool kRope, bool kMean, typename Element>
KVPLANE_ROW_INLINE void RestoreRows(const Element* in, size_t stride, uint32_t tokens, uint32_t channels,
                                    const RowFrame& frame, uint16_t* const* rows) {
  for (uint32_t t = 0; t < tokens; ++t, in += stride) {
    RestoreRow<kRope, kMean>(in, channels, RopeRow<kRope>(frame, t), frame, rows[t]);
  }
}

// One kernel per kind of frame: [rotated] and [rotated][centred].
struct RowFrameVariants {
  using Sum = void(const uint16_t* const*, uint32_t, uint32_t, const RowFrame&, float*);
  using Remove = void(const uint16_t* const*, uint32_t, uint32_t, const RowFrame&, uint16_t*, size_t);
  template <typename Element>
  using Restore = void(const Element*, size_t, uint32_t, uint32_t, const RowFrame&, uint16_t* const*);

  Sum* sum[2];
  Remove* remove[2][2];
  Restore<uint16_t>* restore[2][2];
  Restore<float>* restore_f32[2][2];
};

extern const RowFrameVariants kRowFramesScalar;
extern const RowFrameVariants kRowFramesAvx2;
extern const RowFrameVariants kRowFramesAvx512;

}  // namespace kvplane::kernel::internal
