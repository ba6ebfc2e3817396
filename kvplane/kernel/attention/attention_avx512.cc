// AVX-512: K of a tile is transposed so that lanes are keys, V is laid out so that lanes are elements of the
// head; then blocks of up to six query rows run over both from registers, as a small GEMM.
//
// In bf16 the reduced dimension goes in pairs (VDPBF16PS): adjacent elements of a key are a pair already,
// adjacent rows of V are interleaved. The unpacking costs about as much as two query rows, so a decode step
// with a group of two or more is bound by it and a prefill hardly notices.
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kvplane/kernel/attention/attention.h"
#include "kvplane/kernel/exp2_coefficients.h"

namespace kvplane::kernel {
namespace {

constexpr uint32_t kTile = kAttentionTile;
constexpr uint32_t kRows = 6;    // 6 x 4 accumulators, 4 of K or V, 1 of q or p: 29 of 32 registers
constexpr uint32_t kBlocks = 4;  // vectors of 16 side by side: one tile of keys, or 64 elements of a head

// The state of all rows of a call, in `scratch`. A dword is a pair of bf16, or one f32.
struct State {
  size_t depth;    // dwords of a head: head_dim / 2 or head_dim
  size_t width;    // head_dim rounded up to 16
  uint32_t* k;     // [depth, kTile]
  uint32_t* v;     // [kTile / 2 or kTile, width]
  uint32_t* q;     // [rows, depth]
  uint32_t* p;     // [kRows, kTile / 2 or kTile]
  float* out;      // [rows, width] unnormalised
  float* sum;      // [rows, 16] by lane
  float* maximum;  // [rows] of scores times log2(e)
};

template <bool kBf16>
State Carve(const AttentionArgs& args, uint32_t rows) {
  State s;
  s.depth = kBf16 ? args.head_dim / 2 : args.head_dim;
  s.width = (size_t{args.head_dim} + 15) / 16 * 16;
  s.k = reinterpret_cast<uint32_t*>(args.scratch);
  s.v = s.k + s.depth * kTile;
  s.p = s.v + (kBf16 ? kTile / 2 : kTile) * s.width;
  s.out = reinterpret_cast<float*>(s.p + size_t{kRows} * kTile);
  s.sum = s.out + rows * s.width;
  s.maximum = s.sum + size_t{rows} * 16;
  s.q = reinterpret_cast<uint32_t*>(s.maximum + rows);
  return s;
}

// What keys that do not exist (yet) are read from; prefetches may run past a row's end.
alignas(64) constexpr uint16_t kZeroRow[kMaxHeadDim + 32] = {};

// Where the rows of a tile lie.
struct TileRows {
  const uint16_t* k[kTile];
  const uint16_t* v[kTile];
};

// Keys [tile, tile + kTile); from `end` on they are zero.
void Locate(const AttentionArgs& args, uint32_t tile, uint32_t end, TileRows* rows) {
  const tensor::PageFormat& format = args.layer->format;
  const uint32_t count = tile >= end ? 0 : (end - tile < kTile ? end - tile : kTile);
  uint32_t j = 0;
  while (j < count) {
    const uint32_t slot = (tile + j) % format.block_tokens;
    const uint32_t left = format.block_tokens - slot;
    const uint32_t run = left < count - j ? left : count - j;
    const uint16_t* page = args.layer->pages[(tile + j) / format.block_tokens];
    const uint16_t* k = page + format.offset(tensor::Side::kKey, slot, args.kv_head);
    const uint16_t* v = page + format.offset(tensor::Side::kValue, slot, args.kv_head);
    for (uint32_t i = 0; i < run; ++i) {
      rows->k[j + i] = k + i * format.token_stride;
      rows->v[j + i] = v + i * format.token_stride;
    }
    j += run;
  }
  for (; j < kTile; ++j) rows->k[j] = rows->v[j] = kZeroRow;
}

// Up to 32 elements of a row from `d` on; zero past head_dim. kWhole: there are 32.
template <bool kWhole>
KVPLANE_TARGET_AVX512 inline __m512i LoadRow(const uint16_t* row, uint32_t d, uint32_t head_dim) {
  if constexpr (kWhole) return _mm512_loadu_si512(row + d);
  return _mm512_maskz_loadu_epi16((__mmask32{1} << (head_dim - d)) - 1, row + d);
}

// Transposes 16 x 16 dwords in place.
KVPLANE_TARGET_AVX512 inline void Transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    t[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    t[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

// Asks for the cache line of element `d` of a row of the next tile. Pages are scattered and shorter than what
// hardware prefetchers need to lock on, and a decode step reads all of them once.
KVPLANE_TARGET_AVX512 inline void Prefetch(const uint16_t* row, uint32_t d) {
  _mm_prefetch(reinterpret_cast<const char*>(row + d), _MM_HINT_T0);
}

// 16 keys x 32 elements from `d` on, transposed: r[i] has the pair (d + 2i, d + 2i + 1) of every key.
template <bool kWhole>
KVPLANE_TARGET_AVX512 inline __attribute__((always_inline)) void LoadKeyBlock(const uint16_t* const* rows,
                                                                              const uint16_t* const* next,
                                                                              uint32_t d, uint32_t head_dim,
                                                                              __m512i r[16]) {
#pragma GCC unroll 16
  for (uint32_t i = 0; i < 16; ++i) {
    r[i] = LoadRow<kWhole>(rows[i], d, head_dim);
    Prefetch(next[i], d);
  }
  Transpose(r);
}

// The same, into k [depth, kTile] as packed keys.
template <bool kBf16, bool kWhole>
KVPLANE_TARGET_AVX512 inline void PackKeyBlock(const uint16_t* const* rows, const uint16_t* const* next,
                                               uint32_t d, uint32_t head_dim, uint32_t* k) {
  __m512i r[16];
  LoadKeyBlock<kWhole>(rows, next, d, head_dim, r);
  const uint32_t pairs = kWhole ? 16 : (head_dim - d) / 2;
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
#pragma GCC unroll 16
  for (uint32_t i = 0; i < 16; ++i) {
    if (!kWhole && i >= pairs) break;
    if constexpr (kBf16) {
      _mm512_storeu_si512(k + size_t{d / 2 + i} * kTile, r[i]);
    } else {
      _mm512_storeu_si512(k + size_t{d + 2 * i} * kTile, _mm512_slli_epi32(r[i], 16));
      _mm512_storeu_si512(k + size_t{d + 2 * i + 1} * kTile, _mm512_and_si512(r[i], high_half));
    }
  }
}

template <bool kBf16>
KVPLANE_TARGET_AVX512 void PackKeys(const TileRows& rows, const TileRows& next, uint32_t head_dim,
                                    uint32_t* k) {
  for (uint32_t j = 0; j < kTile; j += 16) {
    uint32_t d = 0;
    for (; d + 32 <= head_dim; d += 32) {
      PackKeyBlock<kBf16, true>(rows.k + j, next.k + j, d, head_dim, k + j);
    }
    if (d < head_dim) PackKeyBlock<kBf16, false>(rows.k + j, next.k + j, d, head_dim, k + j);
  }
}

// Interleaves two rows of bf16: dword i of `low` is (a[i], b[i]), of `high` (a[16 + i], b[16 + i]).
KVPLANE_TARGET_AVX512 inline __attribute__((always_inline)) void Interleave(__m512i a, __m512i b,
                                                                            __m512i* low, __m512i* high) {
  const __m512i low_words = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39,
                                             7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high_words = _mm512_add_epi16(low_words, _mm512_set1_epi16(16));
  *low = _mm512_permutex2var_epi16(a, low_words, b);
  *high = _mm512_permutex2var_epi16(a, high_words, b);
}

// Two rows of V, 32 elements from `d` on, into v [width]: interleaved in bf16, else only the first, widened.
template <bool kBf16, bool kWhole>
KVPLANE_TARGET_AVX512 inline void PackValueBlock(const uint16_t* a, const uint16_t* b, uint32_t d,
                                                 uint32_t head_dim, size_t width, uint32_t* v) {
  const __m512i first = LoadRow<kWhole>(a, d, head_dim);
  __m512i low, high;
  if constexpr (kBf16) {
    Interleave(first, LoadRow<kWhole>(b, d, head_dim), &low, &high);
  } else {
    low = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(first)), 16);
    high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(first, 1)), 16);
  }
  _mm512_storeu_si512(v + d, low);
  if (kWhole || d + 16 < width) _mm512_storeu_si512(v + d + 16, high);
}

template <bool kBf16>
KVPLANE_TARGET_AVX512 void PackValues(const TileRows& rows, const TileRows& next, uint32_t head_dim,
                                      size_t width, uint32_t* v) {
  constexpr uint32_t kStep = kBf16 ? 2 : 1;
  for (uint32_t j = 0; j < kTile; j += kStep, v += width) {
    const uint16_t* a = rows.v[j];
    const uint16_t* b = rows.v[j + kStep - 1];
    uint32_t d = 0;
    for (; d + 32 <= head_dim; d += 32) {
      PackValueBlock<kBf16, true>(a, b, d, head_dim, width, v);
      Prefetch(next.v[j], d);
      if (kBf16) Prefetch(next.v[j + 1], d);
    }
    if (d < head_dim) PackValueBlock<kBf16, false>(a, b, d, head_dim, width, v);
  }
}

template <bool kBf16>
KVPLANE_TARGET_AVX512 inline __m512 MultiplyAdd(__m512 sum, __m512i a, __m512i b) {
  if constexpr (kBf16) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  } else {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
}

// sums [R][N] += a [R, depth] (row stride a_stride) * b [depth, >= 16 N] (row stride b_stride)
template <bool kBf16, uint32_t R, uint32_t N>
KVPLANE_TARGET_AVX512 inline __attribute__((always_inline)) void Product(const uint32_t* a, size_t a_stride,
                                                                         const uint32_t* b, size_t b_stride,
                                                                         size_t depth, __m512 (&sums)[R][N]) {
  for (size_t i = 0; i < depth; ++i, b += b_stride) {
    __m512i columns[N];
#pragma GCC unroll 4
    for (uint32_t n = 0; n < N; ++n) columns[n] = _mm512_loadu_si512(b + n * 16);
#pragma GCC unroll 6
    for (uint32_t r = 0; r < R; ++r) {
      const __m512i row = _mm512_set1_epi32(static_cast<int>(a[r * a_stride + i]));
#pragma GCC unroll 4
      for (uint32_t n = 0; n < N; ++n) sums[r][n] = MultiplyAdd<kBf16>(sums[r][n], row, columns[n]);
    }
  }
}

// 2^x for x <= 0.
KVPLANE_TARGET_AVX512 inline __m512 Exp2(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(kExp2Floor));
  const __m512 whole = _mm512_roundscale_ps(x, 0x08);
  const __m512 rest = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_set1_ps(kExp2Coefficients[7]);
#pragma GCC unroll 7
  for (int i = 6; i >= 0; --i) y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(kExp2Coefficients[i]));
  return _mm512_scalef_ps(y, whole);
}

// Lanes [begin, end) of the tile, bit j for key j.
inline uint64_t LaneMask(uint32_t begin, uint32_t end) {
  if (begin >= end || begin >= kTile) return 0;
  const uint64_t below_end = end >= 64 ? ~uint64_t{0} : (uint64_t{1} << end) - 1;
  return below_end & ~((uint64_t{1} << begin) - 1);
}

// Turns one row's scores into unnormalised probabilities in `p`; returns the correction of what was
// accumulated under the old maximum.
template <bool kBf16>
KVPLANE_TARGET_AVX512 inline float Softmax(const __m512 (&scores)[kBlocks], uint64_t seen, float scale,
                                           float* maximum, float* sum, uint32_t* p) {
  const __m512 lowest = _mm512_set1_ps(-INFINITY);
  __m512 scaled[kBlocks];
#pragma GCC unroll 4
  for (uint32_t n = 0; n < kBlocks; ++n) {
    const __mmask16 mask = static_cast<__mmask16>(seen >> (16 * n));
    scaled[n] = _mm512_mask_mul_ps(lowest, mask, scores[n], _mm512_set1_ps(scale));
  }
  const __m512 largest =
      _mm512_max_ps(_mm512_max_ps(scaled[0], scaled[1]), _mm512_max_ps(scaled[2], scaled[3]));
  const float tile_maximum = _mm512_reduce_max_ps(largest);
  const float before = *maximum;
  const float after = tile_maximum > before ? tile_maximum : before;
  const float correction = before == after ? 1.0f : _mm512_cvtss_f32(Exp2(_mm512_set1_ps(before - after)));
  *maximum = after;
  __m512 values[kBlocks];
#pragma GCC unroll 4
  for (uint32_t n = 0; n < kBlocks; ++n) {
    const __mmask16 mask = static_cast<__mmask16>(seen >> (16 * n));
    values[n] = _mm512_maskz_mov_ps(mask, Exp2(_mm512_sub_ps(scaled[n], _mm512_set1_ps(after))));
  }
  const __m512 total =
      _mm512_add_ps(_mm512_add_ps(values[0], values[1]), _mm512_add_ps(values[2], values[3]));
  _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_loadu_ps(sum), _mm512_set1_ps(correction), total));
  if constexpr (kBf16) {
    const __m512bh first = _mm512_cvtne2ps_pbh(values[1], values[0]);
    const __m512bh second = _mm512_cvtne2ps_pbh(values[3], values[2]);
    _mm512_storeu_si512(p, reinterpret_cast<__m512i>(first));
    _mm512_storeu_si512(p + 16, reinterpret_cast<__m512i>(second));
  } else {
#pragma GCC unroll 4
    for (uint32_t n = 0; n < kBlocks; ++n) _mm512_storeu_ps(reinterpret_cast<float*>(p) + 16 * n, values[n]);
  }
  return correction;
}

// out [R, 16 N] = out * corrections + p * v
template <bool kBf16, uint32_t R, uint32_t N>
KVPLANE_TARGET_AVX512 inline void Accumulate(const State& s, const uint32_t* v, const float (&corrections)[R],
                                             float* out) {
  constexpr size_t kDepth = kBf16 ? kTile / 2 : kTile;
  __m512 sums[R][N];
#pragma GCC unroll 6
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (uint32_t n = 0; n < N; ++n) {
      sums[r][n] = _mm512_mul_ps(_mm512_loadu_ps(out + r * s.width + n * 16), _mm512_set1_ps(corrections[r]));
    }
  }
  Product<kBf16, R, N>(s.p, kDepth, v, s.width, kDepth, sums);
#pragma GCC unroll 6
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (uint32_t n = 0; n < N; ++n) _mm512_storeu_ps(out + r * s.width + n * 16, sums[r][n]);
  }
}

// Which lanes of the tile rows [first, first + R) see; false when none does.
template <uint32_t R>
bool SeenLanes(const AttentionArgs& args, uint32_t tile, uint32_t first, uint64_t (&seen)[R]) {
  uint64_t any = 0;
  for (uint32_t r = 0; r < R; ++r) {
    const KeyRange keys = VisibleKeys(args.first_position + (first + r) / args.group, args.window);
    seen[r] = LaneMask(keys.begin > tile ? keys.begin - tile : 0, keys.end > tile ? keys.end - tile : 0);
    any |= seen[r];
  }
  return any != 0;
}

// Scores to probabilities, for all R rows.
template <bool kBf16, uint32_t R>
KVPLANE_TARGET_AVX512 inline __attribute__((always_inline)) void SoftmaxRows(
    const AttentionArgs& args, const State& s, uint32_t first, const __m512 (&scores)[R][kBlocks],
    const uint64_t (&seen)[R], float (&corrections)[R]) {
  constexpr size_t kDepth = kBf16 ? kTile / 2 : kTile;
#pragma GCC unroll 6
  for (uint32_t r = 0; r < R; ++r) {
    uint32_t* p = s.p + r * kDepth;
    if (seen[r] == 0) {
      corrections[r] = 1.0f;
      std::memset(p, 0, kDepth * sizeof(uint32_t));
      continue;
    }
    corrections[r] = Softmax<kBf16>(scores[r], seen[r], args.scale * kLog2E, s.maximum + first + r,
                                    s.sum + size_t{first + r} * 16, p);
  }
}

// Rows [first, first + R) against the packed tile that begins at key `tile`.
template <bool kBf16, uint32_t R>
KVPLANE_TARGET_AVX512 void AttendRows(const AttentionArgs& args, const State& s, uint32_t tile,
                                      uint32_t first) {
  uint64_t seen[R];
  if (!SeenLanes(args, tile, first, seen)) return;
  __m512 scores[R][kBlocks];
#pragma GCC unroll 6
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (uint32_t n = 0; n < kBlocks; ++n) scores[r][n] = _mm512_setzero_ps();
  }
  Product<kBf16, R, kBlocks>(s.q + first * s.depth, s.depth, s.k, kTile, s.depth, scores);
  float corrections[R];
  SoftmaxRows<kBf16>(args, s, first, scores, seen, corrections);
  float* out = s.out + first * s.width;
  size_t d = 0;
  for (; d + 64 <= s.width; d += 64) Accumulate<kBf16, R, 4>(s, s.v + d, corrections, out + d);
  for (; d < s.width; d += 16) Accumulate<kBf16, R, 1>(s, s.v + d, corrections, out + d);
}

// Scores of R rows against 16 keys, from the keys' rows: the sums of Product in the same order.
template <uint32_t R>
KVPLANE_TARGET_AVX512 inline void DirectScores(const State& s, const uint16_t* const* rows,
                                               const uint16_t* const* next, uint32_t head_dim, uint32_t n,
                                               __m512 (&scores)[R][kBlocks]) {
  __m512 sums[R];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < R; ++r) sums[r] = _mm512_setzero_ps();
  for (uint32_t d = 0; d < head_dim; d += 32) {
    __m512i keys[16];
    LoadKeyBlock<true>(rows, next, d, head_dim, keys);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 16; ++i) {
#pragma GCC unroll 4
      for (uint32_t r = 0; r < R; ++r) {
        const __m512i q = _mm512_set1_epi32(static_cast<int>(s.q[r * s.depth + d / 2 + i]));
        sums[r] = MultiplyAdd<true>(sums[r], q, keys[i]);
      }
    }
  }
#pragma GCC unroll 4
  for (uint32_t r = 0; r < R; ++r) scores[r][n] = sums[r];
}

// As Accumulate<true, R, 4> over elements [d, d + 64), from the rows of V.
template <uint32_t R>
KVPLANE_TARGET_AVX512 inline void DirectAccumulate(const State& s, const TileRows& rows, const TileRows& next,
                                                   uint32_t d, const float (&corrections)[R]) {
  __m512 sums[R][4];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (uint32_t n = 0; n < 4; ++n) {
      sums[r][n] =
          _mm512_mul_ps(_mm512_loadu_ps(s.out + r * s.width + d + n * 16), _mm512_set1_ps(corrections[r]));
    }
  }
  for (uint32_t j = 0; j < kTile; j += 2) {
    __m512i columns[4];
#pragma GCC unroll 2
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t at = d + half * 32;
      Interleave(_mm512_loadu_si512(rows.v[j] + at), _mm512_loadu_si512(rows.v[j + 1] + at),
                 &columns[2 * half], &columns[2 * half + 1]);
      Prefetch(next.v[j], at);
      Prefetch(next.v[j + 1], at);
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < R; ++r) {
      const __m512i p = _mm512_set1_epi32(static_cast<int>(s.p[r * (kTile / 2) + j / 2]));
#pragma GCC unroll 4
      for (uint32_t n = 0; n < 4; ++n) sums[r][n] = MultiplyAdd<true>(sums[r][n], p, columns[n]);
    }
  }
#pragma GCC unroll 4
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (uint32_t n = 0; n < 4; ++n) _mm512_storeu_ps(s.out + r * s.width + d + n * 16, sums[r][n]);
  }
}

// All R rows of the call against a tile, without packing it first: bitwise what AttendRows gives, cheaper for
// the few rows of a decode step. Requires: head_dim is a multiple of 64.
template <uint32_t R>
KVPLANE_TARGET_AVX512 void AttendDirect(const AttentionArgs& args, const State& s, uint32_t tile,
                                        const TileRows& rows, const TileRows& next) {
  uint64_t seen[R];
  if (!SeenLanes(args, tile, 0, seen)) return;
  __m512 scores[R][kBlocks];
  for (uint32_t n = 0; n < kBlocks; ++n) {
    DirectScores<R>(s, rows.k + n * 16, next.k + n * 16, args.head_dim, n, scores);
  }
  float corrections[R];
  SoftmaxRows<true>(args, s, 0, scores, seen, corrections);
  for (uint32_t d = 0; d < args.head_dim; d += 64) DirectAccumulate<R>(s, rows, next, d, corrections);
}

constexpr uint32_t kMostDirectRows = 4;

KVPLANE_TARGET_AVX512 void AttendDirectRows(const AttentionArgs& args, const State& s, uint32_t tile,
                                            const TileRows& rows, const TileRows& next) {
  switch (args.tokens * args.group) {
    case 1:
      return AttendDirect<1>(args, s, tile, rows, next);
    case 2:
      return AttendDirect<2>(args, s, tile, rows, next);
    case 3:
      return AttendDirect<3>(args, s, tile, rows, next);
    default:
      return AttendDirect<kMostDirectRows>(args, s, tile, rows, next);
  }
}

template <bool kBf16>
KVPLANE_TARGET_AVX512 void Begin(const AttentionArgs& args, const State& s, uint32_t rows) {
  for (uint32_t row = 0; row < rows; ++row) {
    const float* from = args.q + row / args.group * args.q_stride + size_t{row % args.group} * args.head_dim;
    uint32_t* to = s.q + row * s.depth;
    for (uint32_t d = 0; d < args.head_dim; d += 16) {
      const __mmask16 mask = args.head_dim - d >= 16 ? 0xffff : 0x00ff;
      const __m512 values = _mm512_maskz_loadu_ps(mask, from + d);
      if constexpr (kBf16) {
        _mm256_mask_storeu_epi16(to + d / 2, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
      } else {
        _mm512_mask_storeu_ps(to + d, mask, values);
      }
    }
    s.maximum[row] = -INFINITY;
  }
  std::memset(s.sum, 0, size_t{rows} * 16 * sizeof(float));
  std::memset(s.out, 0, rows * s.width * sizeof(float));
}

template <bool kBf16, typename Out>
KVPLANE_TARGET_AVX512 void Finish(const AttentionArgs& args, const State& s, uint32_t rows, Out* out) {
  for (uint32_t row = 0; row < rows; ++row) {
    const __m512 inverse =
        _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(_mm512_loadu_ps(s.sum + size_t{row} * 16)));
    Out* to = out + row / args.group * args.out_stride + size_t{row % args.group} * args.head_dim;
    for (uint32_t d = 0; d < args.head_dim; d += 16) {
      const __mmask16 mask = args.head_dim - d >= 16 ? 0xffff : 0x00ff;
      const __m512 values = _mm512_mul_ps(_mm512_loadu_ps(s.out + row * s.width + d), inverse);
      if constexpr (kBf16) {
        _mm256_mask_storeu_epi16(to + d, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
      } else {
        _mm512_mask_storeu_ps(to + d, mask, values);
      }
    }
  }
}

template <bool kBf16, typename Out>
KVPLANE_TARGET_AVX512 void Attend(const AttentionArgs& args, Out* out) {
  const uint32_t rows = args.tokens * args.group;
  const State s = Carve<kBf16>(args, rows);
  Begin<kBf16>(args, s, rows);
  const uint32_t end = args.first_position + args.tokens;
  TileRows located[2];
  uint32_t current = 0;
  uint32_t tile = VisibleKeys(args.first_position, args.window).begin / kTile * kTile;
  Locate(args, tile, end, &located[current]);
  for (; tile < end; tile += kTile, current ^= 1) {
    const TileRows& rows_now = located[current];
    TileRows& rows_next = located[current ^ 1];
    Locate(args, tile + kTile, end, &rows_next);
    if (kBf16 && rows <= kMostDirectRows && args.head_dim % 64 == 0) {
      AttendDirectRows(args, s, tile, rows_now, rows_next);
      continue;
    }
    PackKeys<kBf16>(rows_now, rows_next, args.head_dim, s.k);
    PackValues<kBf16>(rows_now, rows_next, args.head_dim, s.width, s.v);
    uint32_t row = 0;
    for (; row + kRows <= rows; row += kRows) AttendRows<kBf16, kRows>(args, s, tile, row);
    for (; row + 4 <= rows; row += 4) AttendRows<kBf16, 4>(args, s, tile, row);
    for (; row + 2 <= rows; row += 2) AttendRows<kBf16, 2>(args, s, tile, row);
    for (; row < rows; ++row) AttendRows<kBf16, 1>(args, s, tile, row);
  }
  Finish<kBf16>(args, s, rows, out);
}

}  // namespace

const AttentionKernels kAttentionAvx512 = {Attend<false, float>, Attend<true, uint16_t>};

}  // namespace kvplane::kernel
