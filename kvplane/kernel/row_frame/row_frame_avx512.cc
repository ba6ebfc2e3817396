// 16 channels at a time, rounded to bf16 by vcvtneps2bf16; rows end in masked vectors.
#include <immintrin.h>

#include "kvplane/kernel/prefetch.h"
#include "kvplane/kernel/row_frame/row_frame_definition.h"

namespace kvplane::kernel::internal {
namespace {

KVPLANE_TARGET_AVX512 inline __mmask16 MaskOf(uint32_t left) {
  return static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
}

KVPLANE_TARGET_AVX512 inline __m512 Load(const uint16_t* from, __mmask16 mask) {
  const __m256i words = _mm256_maskz_loadu_epi16(mask, from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}
KVPLANE_TARGET_AVX512 inline __m512 Load(const float* from, __mmask16 mask) {
  return _mm512_maskz_loadu_ps(mask, from);
}

KVPLANE_TARGET_AVX512 inline void Store(__m512 x, __mmask16 mask, uint16_t* to) {
  _mm256_mask_storeu_epi16(to, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
}

// kStream: a vector of half a line around the caches; the other half follows at once.
template <bool kStream>
KVPLANE_TARGET_AVX512 inline void StoreRestored(__m512 x, __mmask16 mask, uint16_t* to) {
  if constexpr (kStream) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
  } else {
    Store(x, mask, to);
  }
}

KVPLANE_TARGET_AVX512 inline __m512 Saturate(__m512 x) {
  const __m512 below = _mm512_min_ps(x, _mm512_set1_ps(kLargestBf16));
  return _mm512_max_ps(below, _mm512_set1_ps(-kLargestBf16));
}

template <bool kMean>
KVPLANE_TARGET_AVX512 inline __m512 LessMean(__m512 x, const float* mean, uint32_t c, __mmask16 mask) {
  return kMean ? _mm512_sub_ps(x, _mm512_maskz_loadu_ps(mask, mean + c)) : x;
}

template <bool kMean>
KVPLANE_TARGET_AVX512 inline __m512 PlusMean(__m512 x, const float* mean, uint32_t c, __mmask16 mask) {
  return kMean ? _mm512_add_ps(x, _mm512_maskz_loadu_ps(mask, mean + c)) : x;
}

// Column by column of 16 channels, so that sums stay in registers; each adds its tokens in order.
KVPLANE_TARGET_AVX512 inline void SumRotated(const uint16_t* const* rows, uint32_t tokens,
                                             const RowFrame& frame, float* sums) {
  const uint32_t half = frame.half;
  const __m512 scale = _mm512_set1_ps(frame.scale);
  for (uint32_t i = 0; i < half; i += 16) {
    const __mmask16 mask = MaskOf(half - i);
    __m512 low = _mm512_setzero_ps();
    __m512 high = _mm512_setzero_ps();
    for (uint32_t t = 0; t < tokens; ++t) {
      const __m512 a = Load(rows[t] + i, mask);
      const __m512 b = Load(rows[t] + half + i, mask);
      const __m512 cos = Load(frame.rope[t] + i, mask);
      const __m512 sin = Load(frame.rope[t] + half + i, mask);
      const __m512 low_t = _mm512_add_ps(_mm512_mul_ps(a, cos), _mm512_mul_ps(b, sin));
      const __m512 high_t = _mm512_sub_ps(_mm512_mul_ps(b, cos), _mm512_mul_ps(a, sin));
      low = _mm512_add_ps(low, _mm512_mul_ps(low_t, scale));
      high = _mm512_add_ps(high, _mm512_mul_ps(high_t, scale));
    }
    _mm512_mask_storeu_ps(sums + i, mask, low);
    _mm512_mask_storeu_ps(sums + half + i, mask, high);
  }
}

template <bool kRope>
KVPLANE_TARGET_AVX512 void Sum(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                               const RowFrame& frame, float* sums) {
  if constexpr (kRope) SumRotated(rows, tokens, frame, sums);
  for (uint32_t c = kRope ? 2 * frame.half : 0; c < channels; c += 16) {
    const __mmask16 mask = MaskOf(channels - c);
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t t = 0; t < tokens; ++t) sum = _mm512_add_ps(sum, Load(rows[t] + c, mask));
    _mm512_mask_storeu_ps(sums + c, mask, sum);
  }
}

template <bool kMean>
KVPLANE_TARGET_AVX512 inline void RemoveRotation(const uint16_t* x, const float* rope, const RowFrame& frame,
                                                 uint16_t* y) {
  const uint32_t half = frame.half;
  const __m512 scale = _mm512_set1_ps(frame.scale);
  for (uint32_t i = 0; i < half; i += 16) {
    const __mmask16 mask = MaskOf(half - i);
    const __m512 a = Load(x + i, mask);
    const __m512 b = Load(x + half + i, mask);
    const __m512 cos = Load(rope + i, mask);
    const __m512 sin = Load(rope + half + i, mask);
    const __m512 low = _mm512_add_ps(_mm512_mul_ps(a, cos), _mm512_mul_ps(b, sin));
    const __m512 high = _mm512_sub_ps(_mm512_mul_ps(b, cos), _mm512_mul_ps(a, sin));
    Store(LessMean<kMean>(_mm512_mul_ps(low, scale), frame.mean, i, mask), mask, y + i);
    Store(LessMean<kMean>(_mm512_mul_ps(high, scale), frame.mean, half + i, mask), mask, y + half + i);
  }
}

template <bool kRope, bool kMean>
KVPLANE_TARGET_AVX512 void Remove(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                  const RowFrame& frame, uint16_t* out, size_t stride) {
  for (uint32_t t = 0; t < tokens; ++t, out += stride) {
    if (frame.ahead != 0) PrefetchRow(rows[t] + frame.ahead, channels);
    if constexpr (kRope) RemoveRotation<kMean>(rows[t], frame.rope[t], frame, out);
    for (uint32_t c = kRope ? 2 * frame.half : 0; c < channels; c += 16) {
      const __mmask16 mask = MaskOf(channels - c);
      Store(LessMean<kMean>(Load(rows[t] + c, mask), frame.mean, c, mask), mask, out + c);
    }
  }
}

template <bool kMean, bool kStream, typename Element>
KVPLANE_TARGET_AVX512 inline void RestoreRotation(const Element* y, const float* rope, const RowFrame& frame,
                                                  uint16_t* x) {
  const uint32_t half = frame.half;
  for (uint32_t i = 0; i < half; i += 16) {
    const __mmask16 mask = MaskOf(half - i);
    const __m512 a = PlusMean<kMean>(Load(y + i, mask), frame.mean, i, mask);
    const __m512 b = PlusMean<kMean>(Load(y + half + i, mask), frame.mean, half + i, mask);
    const __m512 cos = Load(rope + i, mask);
    const __m512 sin = Load(rope + half + i, mask);
    const __m512 low = _mm512_sub_ps(_mm512_mul_ps(a, cos), _mm512_mul_ps(b, sin));
    const __m512 high = _mm512_add_ps(_mm512_mul_ps(b, cos), _mm512_mul_ps(a, sin));
    StoreRestored<kStream>(Saturate(low), mask, x + i);
    StoreRestored<kStream>(Saturate(high), mask, x + half + i);
  }
}

// Streaming stores need whole aligned lines, and rotated halves that are whole vectors.
bool MayStream(const RowFrame& frame, uint32_t channels, const uint16_t* const* rows, uint32_t tokens) {
  constexpr uintptr_t kLine = 64;
  if (!frame.streaming_stores || channels * sizeof(uint16_t) % kLine != 0 || frame.half % 16 != 0)
    return false;
  uintptr_t misaligned = 0;
  for (uint32_t t = 0; t < tokens; ++t) misaligned |= reinterpret_cast<uintptr_t>(rows[t]) % kLine;
  return misaligned == 0;
}

template <bool kRope, bool kMean, bool kStream, typename Element>
KVPLANE_TARGET_AVX512 void RestoreRows(const Element* in, size_t stride, uint32_t tokens, uint32_t channels,
                                       const RowFrame& frame, uint16_t* const* rows) {
  for (uint32_t t = 0; t < tokens; ++t, in += stride) {
    if constexpr (kRope) RestoreRotation<kMean, kStream>(in, frame.rope[t], frame, rows[t]);
    for (uint32_t c = kRope ? 2 * frame.half : 0; c < channels; c += 16) {
      const __mmask16 mask = MaskOf(channels - c);
      StoreRestored<kStream>(Saturate(PlusMean<kMean>(Load(in + c, mask), frame.mean, c, mask)), mask,
                             rows[t] + c);
    }
  }
}

template <bool kRope, bool kMean, typename Element>
void Restore(const Element* in, size_t stride, uint32_t tokens, uint32_t channels, const RowFrame& frame,
             uint16_t* const* rows) {
  if (!MayStream(frame, channels, rows, tokens)) {
    return RestoreRows<kRope, kMean, false>(in, stride, tokens, channels, frame, rows);
  }
  RestoreRows<kRope, kMean, true>(in, stride, tokens, channels, frame, rows);
  _mm_sfence();
}

}  // namespace

constinit const RowFrameVariants kRowFramesAvx512 = {
    {Sum<false>, Sum<true>},
    {{Remove<false, false>, Remove<false, true>}, {Remove<true, false>, Remove<true, true>}},
    {{Restore<false, false, uint16_t>, Restore<false, true, uint16_t>},
     {Restore<true, false, uint16_t>, Restore<true, true, uint16_t>}},
    {{Restore<false, false, float>, Restore<false, true, float>},
     {Restore<true, false, float>, Restore<true, true, float>}}};

}  // namespace kvplane::kernel::internal
