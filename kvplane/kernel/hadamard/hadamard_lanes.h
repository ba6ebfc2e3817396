// The Hadamard transform on vectors, once for the instruction sets that have them: the operations of
// hadamard_definition.h in the same order, `kLanes` at a time. Vectors are those of the compiler's vector
// extension, so that a function compiled for a target gets its instructions.
//
// Paley factors meet blocks as short as 4 elements. Tokens then lie beside each other until they fill a
// vector.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvplane/kernel/hadamard/hadamard.h"
#include "kvplane/kernel/hadamard/hadamard_definition.h"
#include "kvplane/kernel/hadamard/paley.h"

namespace kvplane::kernel::internal {

template <uint32_t kLanes>
struct VectorOf;
template <>
struct VectorOf<8> {
  typedef float Type __attribute__((vector_size(32)));
};
template <>
struct VectorOf<16> {
  typedef float Type __attribute__((vector_size(64)));
};

// What the lanes of a pair at `distance` are multiplied by: partner + x, or partner - x in the upper one.
template <uint32_t kLanes>
struct PairSigns {
  alignas(64) float at[4][kLanes];  // [log2(distance)]
};
template <uint32_t kLanes>
consteval PairSigns<kLanes> MakePairSigns() {
  PairSigns<kLanes> signs{};
  for (uint32_t k = 0; k < 4; ++k) {
    for (uint32_t i = 0; i < kLanes; ++i) signs.at[k][i] = (i >> k & 1u) == 0 ? 1.0f : -1.0f;
  }
  return signs;
}
template <uint32_t kLanes>
inline constexpr PairSigns<kLanes> kPairSigns = MakePairSigns<kLanes>();

template <uint32_t kDistance>
KVPLANE_ROW_INLINE void SwapPairs(const VectorOf<8>::Type& x, VectorOf<8>::Type& partner) {
  constexpr auto kD = static_cast<int>(kDistance);
  partner = __builtin_shufflevector(x, x, 0 ^ kD, 1 ^ kD, 2 ^ kD, 3 ^ kD, 4 ^ kD, 5 ^ kD, 6 ^ kD, 7 ^ kD);
}
template <uint32_t kDistance>
KVPLANE_ROW_INLINE void SwapPairs(const VectorOf<16>::Type& x, VectorOf<16>::Type& partner) {
  constexpr auto kD = static_cast<int>(kDistance);
  partner = __builtin_shufflevector(x, x, 0 ^ kD, 1 ^ kD, 2 ^ kD, 3 ^ kD, 4 ^ kD, 5 ^ kD, 6 ^ kD, 7 ^ kD,
                                    8 ^ kD, 9 ^ kD, 10 ^ kD, 11 ^ kD, 12 ^ kD, 13 ^ kD, 14 ^ kD, 15 ^ kD);
}

template <uint32_t kLanes, uint32_t kDistance>
KVPLANE_ROW_INLINE void PairWithin(typename VectorOf<kLanes>::Type& x) {
  typename VectorOf<kLanes>::Type partner;
  typename VectorOf<kLanes>::Type sign;
  constexpr uint32_t kIndex = kDistance == 1 ? 0 : kDistance == 2 ? 1 : kDistance == 4 ? 2 : 3;
  SwapPairs<kDistance>(x, partner);
  std::memcpy(&sign, kPairSigns<kLanes>.at[kIndex], sizeof(sign));
  x = partner + x * sign;
}

// Butterflies at distances below kLimit (at most kLanes) within every vector of x [n], n a multiple of
// kLanes.
template <uint32_t kLanes, uint32_t kLimit>
KVPLANE_ROW_INLINE void ButterfliesWithin(float* x, uint32_t n) {
  typename VectorOf<kLanes>::Type v;
  for (uint32_t i = 0; i < n; i += kLanes) {
    std::memcpy(&v, x + i, sizeof(v));
    if constexpr (kLimit > 1) PairWithin<kLanes, 1>(v);
    if constexpr (kLimit > 2) PairWithin<kLanes, 2>(v);
    if constexpr (kLimit > 4) PairWithin<kLanes, 4>(v);
    if constexpr (kLimit > 8) PairWithin<kLanes, 8>(v);
    std::memcpy(x + i, &v, sizeof(v));
  }
}

// Two distances at once, d and 2d with d >= kLanes: half the loads and stores. x: [n], n a multiple of 4d.
template <uint32_t kLanes>
KVPLANE_ROW_INLINE void ButterfliesAtTwo(float* x, uint32_t n, uint32_t distance) {
  typename VectorOf<kLanes>::Type a, b, c, d;
  for (uint32_t i = 0; i < n; i += 4 * distance) {
    for (uint32_t j = i; j < i + distance; j += kLanes) {
      std::memcpy(&a, x + j, sizeof(a));
      std::memcpy(&b, x + j + distance, sizeof(b));
      std::memcpy(&c, x + j + 2 * distance, sizeof(c));
      std::memcpy(&d, x + j + 3 * distance, sizeof(d));
      const auto ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
      a = ab + cd;
      b = a_b + c_d;
      c = ab - cd;
      d = a_b - c_d;
      std::memcpy(x + j, &a, sizeof(a));
      std::memcpy(x + j + distance, &b, sizeof(b));
      std::memcpy(x + j + 2 * distance, &c, sizeof(c));
      std::memcpy(x + j + 3 * distance, &d, sizeof(d));
    }
  }
}

template <uint32_t kLanes>
KVPLANE_ROW_INLINE void ButterfliesAtOne(float* x, uint32_t n, uint32_t distance) {
  typename VectorOf<kLanes>::Type a, b;
  for (uint32_t i = 0; i < n; i += 2 * distance) {
    for (uint32_t j = i; j < i + distance; j += kLanes) {
      std::memcpy(&a, x + j, sizeof(a));
      std::memcpy(&b, x + j + distance, sizeof(b));
      const auto sum = a + b;
      b = a - b;
      std::memcpy(x + j, &sum, sizeof(sum));
      std::memcpy(x + j + distance, &b, sizeof(b));
    }
  }
}

// The butterflies of a segment, which fills whole vectors.
template <uint32_t kLanes>
KVPLANE_ROW_INLINE void ButterfliesOf(const HadamardSegment& segment, float* x) {
  const uint32_t n = segment.order();
  switch (std::min(segment.block, kLanes)) {
    case 1:
      break;
    case 2:
      ButterfliesWithin<kLanes, 2>(x, n);
      break;
    case 4:
      ButterfliesWithin<kLanes, 4>(x, n);
      break;
    case 8:
      ButterfliesWithin<kLanes, 8>(x, n);
      break;
    default:
      ButterfliesWithin<kLanes, kLanes>(x, n);
  }
  uint32_t distance = kLanes;
  for (; 4 * distance <= segment.block; distance *= 4) ButterfliesAtTwo<kLanes>(x, n, distance);
  if (2 * distance <= segment.block) ButterfliesAtOne<kLanes>(x, n, distance);
}

// y = P x for columns that fill a vector. x, y: [order, kLanes]. Four sums at a time hide the latency of the
// additions.
template <uint32_t kLanes>
KVPLANE_ROW_INLINE void MixLanes(const PaleySigns& signs, uint32_t order, const float* x, float* y) {
  typename VectorOf<kLanes>::Type column;
  for (uint32_t r = 0; r < order; r += 4) {
    typename VectorOf<kLanes>::Type sums[4] = {};
#pragma GCC unroll 4
    for (uint32_t c = 0; c < order; ++c) {
      std::memcpy(&column, x + c * kLanes, sizeof(column));
      sums[0] += column * signs[r][c];
      sums[1] += column * signs[r + 1][c];
      sums[2] += column * signs[r + 2][c];
      sums[3] += column * signs[r + 3][c];
    }
    std::memcpy(y + r * kLanes, sums, sizeof(sums));
  }
}

// Mixes kLanes / kPiece rows at once: pieces of kPiece columns, beside each other in a vector. Rows that are
// not there are given as null.
template <uint32_t kLanes, uint32_t kPiece>
KVPLANE_ROW_INLINE void MixPieces(const HadamardSegment& segment, const PaleySigns& signs,
                                  float* const (&rows)[kLanes]) {
  alignas(64) float x[kMaxPaleyOrder * kLanes];
  alignas(64) float y[kMaxPaleyOrder * kLanes];
  constexpr uint32_t kRows = kLanes / kPiece;
  if (rows[kRows - 1] == nullptr) std::fill(std::begin(x), std::end(x), 0.0f);
  for (uint32_t first = 0; first < segment.block; first += kPiece) {
    for (uint32_t g = 0; g < kRows && rows[g] != nullptr; ++g) {
      for (uint32_t i = 0; i < segment.paley; ++i) {
        std::memcpy(x + i * kLanes + g * kPiece, rows[g] + i * segment.block + first, kPiece * sizeof(float));
      }
    }
    MixLanes<kLanes>(signs, segment.paley, x, y);
    for (uint32_t g = 0; g < kRows && rows[g] != nullptr; ++g) {
      for (uint32_t i = 0; i < segment.paley; ++i) {
        std::memcpy(rows[g] + i * segment.block + first, y + i * kLanes + g * kPiece, kPiece * sizeof(float));
      }
    }
  }
}

// Rows that are transformed at once: as many as it takes to fill vectors with blocks.
template <uint32_t kLanes>
KVPLANE_ROW_INLINE uint32_t RowsAtOnce(const HadamardPlan& plan) {
  const HadamardSegment& segment = plan.segments()[0];
  return segment.paley > 1 && segment.block < kLanes ? kLanes / segment.block : 1;
}

// Transforms rows[0], ... up to the first null, RowsAtOnce() at most.
template <uint32_t kLanes>
KVPLANE_ROW_INLINE void TransformRows(const HadamardPlan& plan, bool inverse, float* const (&rows)[kLanes]) {
  const HadamardSegment& whole = plan.segments()[0];
  for (uint32_t g = 0; g < kLanes && rows[g] != nullptr; ++g) {
    for (const HadamardSegment& segment : plan.segments()) {
      float* x = rows[g] + segment.first;
      if (segment.order() % kLanes == 0) {
        ButterfliesOf<kLanes>(segment, x);
      } else {
        for (uint32_t i = 0; i < segment.paley; ++i) Butterflies(x + i * segment.block, segment.block);
      }
    }
  }
  if (whole.paley == 1) return;
  const PaleySigns& signs = PaleySignsOf(whole.paley, inverse);
  switch (std::min(whole.block, kLanes)) {
    case 1:
      return MixPieces<kLanes, 1>(whole, signs, rows);
    case 2:
      return MixPieces<kLanes, 2>(whole, signs, rows);
    case 4:
      return MixPieces<kLanes, 4>(whole, signs, rows);
    case 8:
      return MixPieces<kLanes, 8>(whole, signs, rows);
    default:
      return MixPieces<kLanes, kLanes>(whole, signs, rows);
  }
}

// A few rows in binary32: 16 of 28 channels, or one of the longest.
constexpr uint32_t kRowsFloats = kMaxRowChannels;

template <uint32_t kLanes, bool kRope, bool kMean>
KVPLANE_ROW_INLINE void ForwardInLanes(const HadamardPlan& plan, const uint16_t* const* rows, uint32_t tokens,
                                       const RowFrame& frame, const float* __restrict gains, uint16_t* out,
                                       size_t stride) {
  alignas(64) float values[kRowsFloats];
  const uint32_t n = plan.n();
  const uint32_t step = RowsAtOnce<kLanes>(plan);
  for (uint32_t t = 0; t < tokens; t += step) {
    float* at[kLanes] = {};
    const uint32_t here = std::min(step, tokens - t);
    for (uint32_t g = 0; g < here; ++g) {
      float* __restrict row = at[g] = values + g * n;
      RemoveRow<kRope, kMean>(rows[t + g], n, RopeRow<kRope>(frame, t + g), frame, row);
      for (uint32_t c = 0; c < n; ++c) row[c] *= gains[c];
    }
    TransformRows<kLanes>(plan, false, at);
    for (uint32_t g = 0; g < here; ++g, out += stride) {
      const float* __restrict row = at[g];
      uint16_t* __restrict to = out;
      for (uint32_t c = 0; c < n; ++c) to[c] = ToBf16(row[c]);
    }
  }
}

template <uint32_t kLanes, bool kRope, bool kMean>
KVPLANE_ROW_INLINE void InverseInLanes(const HadamardPlan& plan, const uint16_t* in, size_t stride,
                                       uint32_t tokens, const RowFrame& frame, const float* __restrict gains,
                                       uint16_t* const* rows) {
  alignas(64) float values[kRowsFloats];
  const uint32_t n = plan.n();
  const uint32_t step = RowsAtOnce<kLanes>(plan);
  for (uint32_t t = 0; t < tokens; t += step) {
    float* at[kLanes] = {};
    const uint32_t here = std::min(step, tokens - t);
    for (uint32_t g = 0; g < here; ++g, in += stride) {
      float* __restrict row = at[g] = values + g * n;
      for (uint32_t c = 0; c < n; ++c) row[c] = FromBf16(in[c]);
    }
    TransformRows<kLanes>(plan, true, at);
    for (uint32_t g = 0; g < here; ++g) {
      float* __restrict row = at[g];
      for (uint32_t c = 0; c < n; ++c) row[c] *= gains[c];
      RestoreRow<kRope, kMean>(row, n, RopeRow<kRope>(frame, t + g), frame, rows[t + g]);
    }
  }
}

}  // namespace kvplane::kernel::internal
