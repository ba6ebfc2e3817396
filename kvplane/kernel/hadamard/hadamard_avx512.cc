// 64, 128 and 256 channels live in registers from the load to the store; other sizes go through a row in L1
// (hadamard_lanes.h).
#include <immintrin.h>

#include "kvplane/kernel/hadamard/hadamard_lanes.h"
#include "kvplane/kernel/prefetch.h"

namespace kvplane::kernel::internal {
namespace {

// 16 floats; a register that templates may take as an argument.
struct Lanes {
  __m512 v;
};

KVPLANE_TARGET_AVX512 inline __m512 LoadBf16(const uint16_t* from) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}

KVPLANE_TARGET_AVX512 inline __m512 Saturate(__m512 x) {
  const __m512 below = _mm512_min_ps(x, _mm512_set1_ps(kLargestBf16));
  return _mm512_max_ps(below, _mm512_set1_ps(-kLargestBf16));
}

// Within a register: partner + own * (+1 or -1). The product is exact, so this rounds as a + b and a - b do.
template <uint32_t kRegisters>
KVPLANE_TARGET_AVX512 inline void TransformInRegisters(Lanes (&x)[kRegisters]) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 minus = _mm512_set1_ps(-1.0f);
  const __m512 sign1 = _mm512_mask_mov_ps(one, 0xaaaa, minus);
  const __m512 sign2 = _mm512_mask_mov_ps(one, 0xcccc, minus);
  const __m512 sign4 = _mm512_mask_mov_ps(one, 0xf0f0, minus);
  const __m512 sign8 = _mm512_mask_mov_ps(one, 0xff00, minus);
  for (Lanes& lanes : x) {
    __m512 v = lanes.v;
    v = _mm512_fmadd_ps(v, sign1, _mm512_permute_ps(v, 0xb1));
    v = _mm512_fmadd_ps(v, sign2, _mm512_permute_ps(v, 0x4e));
    v = _mm512_fmadd_ps(v, sign4, _mm512_shuffle_f32x4(v, v, 0xb1));
    v = _mm512_fmadd_ps(v, sign8, _mm512_shuffle_f32x4(v, v, 0x4e));
    lanes.v = v;
  }
#pragma GCC unroll 16
  for (uint32_t distance = 1; distance < kRegisters; distance *= 2) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kRegisters; ++i) {
      if ((i & distance) != 0) continue;
      const __m512 a = x[i].v;
      const __m512 b = x[i + distance].v;
      x[i].v = _mm512_add_ps(a, b);
      x[i + distance].v = _mm512_sub_ps(a, b);
    }
  }
}

template <uint32_t kRegisters>
KVPLANE_TARGET_AVX512 inline void Unrotate(Lanes (&x)[kRegisters], const float* rope, __m512 scale) {
  constexpr uint32_t kHalf = kRegisters / 2;
#pragma GCC unroll 16
  for (uint32_t i = 0; i < kHalf; ++i) {
    const __m512 cos = _mm512_loadu_ps(rope + 16 * i);
    const __m512 sin = _mm512_loadu_ps(rope + 16 * (kHalf + i));
    const __m512 a = x[i].v;
    const __m512 b = x[i + kHalf].v;
    x[i].v = _mm512_mul_ps(_mm512_add_ps(_mm512_mul_ps(a, cos), _mm512_mul_ps(b, sin)), scale);
    x[i + kHalf].v = _mm512_mul_ps(_mm512_sub_ps(_mm512_mul_ps(b, cos), _mm512_mul_ps(a, sin)), scale);
  }
}

template <uint32_t kRegisters>
KVPLANE_TARGET_AVX512 inline void Rotate(Lanes (&x)[kRegisters], const float* rope) {
  constexpr uint32_t kHalf = kRegisters / 2;
#pragma GCC unroll 16
  for (uint32_t i = 0; i < kHalf; ++i) {
    const __m512 cos = _mm512_loadu_ps(rope + 16 * i);
    const __m512 sin = _mm512_loadu_ps(rope + 16 * (kHalf + i));
    const __m512 a = x[i].v;
    const __m512 b = x[i + kHalf].v;
    x[i].v = _mm512_sub_ps(_mm512_mul_ps(a, cos), _mm512_mul_ps(b, sin));
    x[i + kHalf].v = _mm512_add_ps(_mm512_mul_ps(b, cos), _mm512_mul_ps(a, sin));
  }
}

// stream: around the caches; requires alignment.
template <uint32_t kRegisters>
KVPLANE_TARGET_AVX512 inline void StoreBf16(const Lanes (&x)[kRegisters], bool stream, uint16_t* to) {
#pragma GCC unroll 16
  for (uint32_t i = 0; i < kRegisters; i += 2) {
    const auto pair = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(x[i + 1].v, x[i].v));
    if (stream) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to + 16 * i), pair);
    } else {
      _mm512_storeu_si512(to + 16 * i, pair);
    }
  }
}

template <uint32_t kRegisters, bool kRope, bool kMean>
KVPLANE_TARGET_AVX512 void ForwardInRegisters(const uint16_t* const* rows, uint32_t tokens,
                                              const RowFrame& frame, const float* gains, uint16_t* out,
                                              size_t stride) {
  const __m512 scale = _mm512_set1_ps(frame.scale);
  for (uint32_t t = 0; t < tokens; ++t, out += stride) {
    if (frame.ahead != 0) PrefetchRow(rows[t] + frame.ahead, 16 * kRegisters);
    Lanes x[kRegisters];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kRegisters; ++i) x[i].v = LoadBf16(rows[t] + 16 * i);
    if constexpr (kRope) Unrotate(x, frame.rope[t], scale);
    if constexpr (kMean) {
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kRegisters; ++i) {
        x[i].v = _mm512_sub_ps(x[i].v, _mm512_loadu_ps(frame.mean + 16 * i));
      }
    }
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kRegisters; ++i) x[i].v = _mm512_mul_ps(x[i].v, _mm512_loadu_ps(gains + 16 * i));
    TransformInRegisters(x);
    StoreBf16(x, false, out);
  }
}

template <uint32_t kRegisters, bool kRope, bool kMean>
KVPLANE_TARGET_AVX512 void InverseInRegisters(const uint16_t* in, size_t stride, uint32_t tokens,
                                              const RowFrame& frame, const float* gains,
                                              uint16_t* const* rows) {
  uintptr_t misaligned = frame.streaming_stores ? 0 : 1;
  for (uint32_t t = 0; t < tokens; ++t) misaligned |= reinterpret_cast<uintptr_t>(rows[t]) % sizeof(__m512i);
  const bool stream = misaligned == 0;
  for (uint32_t t = 0; t < tokens; ++t, in += stride) {
    Lanes x[kRegisters];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kRegisters; ++i) x[i].v = LoadBf16(in + 16 * i);
    TransformInRegisters(x);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kRegisters; ++i) x[i].v = _mm512_mul_ps(x[i].v, _mm512_loadu_ps(gains + 16 * i));
    if constexpr (kMean) {
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kRegisters; ++i) {
        x[i].v = _mm512_add_ps(x[i].v, _mm512_loadu_ps(frame.mean + 16 * i));
      }
    }
    if constexpr (kRope) Rotate(x, frame.rope[t]);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kRegisters; ++i) x[i].v = Saturate(x[i].v);
    StoreBf16(x, stream, rows[t]);
  }
  if (stream) _mm_sfence();
}

// Half-split pairs lie in registers i and i + half when all channels are rotated.
template <bool kRope>
bool FitsRegisters(const RowFrame& frame, uint32_t n) {
  return !kRope || 2 * frame.half == n;
}

template <bool kRope, bool kMean>
KVPLANE_TARGET_AVX512 void Forward(const HadamardPlan& plan, const uint16_t* const* rows, uint32_t tokens,
                                   const RowFrame& frame, const float* gains, uint16_t* out, size_t stride) {
  const uint32_t n = FitsRegisters<kRope>(frame, plan.n()) ? plan.n() : 0;
  if (n == 64) return ForwardInRegisters<4, kRope, kMean>(rows, tokens, frame, gains, out, stride);
  if (n == 128) return ForwardInRegisters<8, kRope, kMean>(rows, tokens, frame, gains, out, stride);
  if (n == 256) return ForwardInRegisters<16, kRope, kMean>(rows, tokens, frame, gains, out, stride);
  ForwardInLanes<16, kRope, kMean>(plan, rows, tokens, frame, gains, out, stride);
}

template <bool kRope, bool kMean>
KVPLANE_TARGET_AVX512 void Inverse(const HadamardPlan& plan, const uint16_t* in, size_t stride,
                                   uint32_t tokens, const RowFrame& frame, const float* gains,
                                   uint16_t* const* rows) {
  const uint32_t n = FitsRegisters<kRope>(frame, plan.n()) ? plan.n() : 0;
  if (n == 64) return InverseInRegisters<4, kRope, kMean>(in, stride, tokens, frame, gains, rows);
  if (n == 128) return InverseInRegisters<8, kRope, kMean>(in, stride, tokens, frame, gains, rows);
  if (n == 256) return InverseInRegisters<16, kRope, kMean>(in, stride, tokens, frame, gains, rows);
  InverseInLanes<16, kRope, kMean>(plan, in, stride, tokens, frame, gains, rows);
}

}  // namespace

constinit const HadamardVariants kHadamardAvx512 = {
    {{Forward<false, false>, Forward<false, true>}, {Forward<true, false>, Forward<true, true>}},
    {{Inverse<false, false>, Inverse<false, true>}, {Inverse<true, false>, Inverse<true, true>}}};

}  // namespace kvplane::kernel::internal
