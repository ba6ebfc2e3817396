// AVX2: K and V of a tile are widened to f32 once, then every block of four query rows runs over them.
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kvplane/kernel/attention/attention.h"
#include "kvplane/kernel/exp2_coefficients.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

constexpr uint32_t kRows = 4;  // query rows that share each load of K or V
constexpr uint32_t kTile = kAttentionTile;

// The state of all rows of a call, in `scratch`. width: head_dim, a multiple of 8.
struct State {
  float* k;        // [kTile, width]
  float* v;        // [kTile, width]
  float* q;        // [rows, width]
  float* out;      // [rows, width] unnormalised
  float* p;        // [kRows, kTile]
  float* maximum;  // [rows] of scores times log2(e)
  float* sum;      // [rows]
};

State Carve(const AttentionArgs& args, uint32_t rows) {
  const size_t width = args.head_dim;
  State s;
  s.k = reinterpret_cast<float*>(args.scratch);
  s.v = s.k + kTile * width;
  s.q = s.v + kTile * width;
  s.out = s.q + rows * width;
  s.p = s.out + rows * width;
  s.maximum = s.p + size_t{kRows} * kTile;
  s.sum = s.maximum + rows;
  return s;
}

// Rows of keys [tile, tile + kTile) that exist (below `end`), widened; the others are zero.
KVPLANE_TARGET_AVX2 void Widen(const AttentionArgs& args, tensor::Side side, uint32_t tile, uint32_t end,
                               float* to) {
  const tensor::PageFormat& format = args.layer->format;
  const size_t width = args.head_dim;
  for (uint32_t j = 0; j < kTile; ++j, to += width) {
    const uint32_t position = tile + j;
    if (position >= end) {
      std::memset(to, 0, width * sizeof(float));
      continue;
    }
    const uint16_t* from = args.layer->pages[position / format.block_tokens] +
                           format.offset(side, position % format.block_tokens, args.kv_head);
    for (size_t d = 0; d < width; d += 8) {
      const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + d)));
      _mm256_storeu_ps(to + d, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
    }
  }
}

KVPLANE_TARGET_AVX2 inline float Sum(__m256 x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}

// 2^x for x <= 0.
KVPLANE_TARGET_AVX2 inline __m256 Exp2(__m256 x) {
  x = _mm256_max_ps(x, _mm256_set1_ps(-126.0f));
  const __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 rest = _mm256_sub_ps(x, whole);
  __m256 y = _mm256_set1_ps(kExp2Coefficients[7]);
  for (int i = 6; i >= 0; --i) y = _mm256_fmadd_ps(y, rest, _mm256_set1_ps(kExp2Coefficients[i]));
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), exponent));
}

// Scores of `count` <= kRows rows of q against every key of the tile, times `scale`, into p.
KVPLANE_TARGET_AVX2 void Scores(const float* q, const float* k, size_t width, uint32_t count, float scale,
                                float* p) {
  for (uint32_t j = 0; j < kTile; ++j, k += width) {
    __m256 dots[kRows] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t d = 0; d < width; d += 8) {
      const __m256 key = _mm256_loadu_ps(k + d);
      for (uint32_t r = 0; r < kRows; ++r) {
        const float* row = q + (r < count ? r : 0) * width;
        dots[r] = _mm256_fmadd_ps(_mm256_loadu_ps(row + d), key, dots[r]);
      }
    }
    for (uint32_t r = 0; r < count; ++r) p[r * kTile + j] = Sum(dots[r]) * scale;
  }
}

// p[j] = 2^(p[j] - maximum) on [begin, end), zero elsewhere; updates maximum and sum, returns the correction
// of what was accumulated under the old maximum.
template <bool kBf16>
KVPLANE_TARGET_AVX2 float Softmax(float* p, uint32_t begin, uint32_t end, float* maximum, float* sum) {
  float largest = *maximum;
  for (uint32_t j = 0; j < begin; ++j) p[j] = -INFINITY;
  for (uint32_t j = end; j < kTile; ++j) p[j] = -INFINITY;
  for (uint32_t j = begin; j < end; ++j) largest = p[j] > largest ? p[j] : largest;
  const float correction = *maximum == -INFINITY ? 0.0f : std::exp2(*maximum - largest);
  *maximum = largest;
  __m256 total = _mm256_setzero_ps();
  for (uint32_t j = 0; j < kTile; j += 8) {
    const __m256 score = _mm256_loadu_ps(p + j);
    const __m256 seen = _mm256_cmp_ps(score, _mm256_set1_ps(-INFINITY), _CMP_NEQ_UQ);
    const __m256 value = _mm256_and_ps(Exp2(_mm256_sub_ps(score, _mm256_set1_ps(largest))), seen);
    total = _mm256_add_ps(total, value);
    _mm256_storeu_ps(p + j, value);
  }
  *sum = *sum * correction + Sum(total);
  if (kBf16) {
    for (uint32_t j = begin; j < end; ++j) p[j] = tensor::Bf16ToFloat(tensor::FloatToBf16(p[j]));
  }
  return correction;
}

// out [count, width] = out * corrections + p [count, kTile] * v [kTile, width]
KVPLANE_TARGET_AVX2 void Accumulate(const float* p, const float* v, size_t width, uint32_t count,
                                    const float* corrections, float* out) {
  for (size_t d = 0; d < width; d += 8) {
    __m256 sums[kRows];
    for (uint32_t r = 0; r < kRows; ++r) {
      const uint32_t row = r < count ? r : 0;
      sums[r] = _mm256_mul_ps(_mm256_loadu_ps(out + row * width + d), _mm256_set1_ps(corrections[row]));
    }
    for (uint32_t j = 0; j < kTile; ++j) {
      const __m256 value = _mm256_loadu_ps(v + j * width + d);
      for (uint32_t r = 0; r < kRows; ++r) {
        const uint32_t row = r < count ? r : 0;
        sums[r] = _mm256_fmadd_ps(_mm256_set1_ps(p[row * kTile + j]), value, sums[r]);
      }
    }
    for (uint32_t r = 0; r < count; ++r) _mm256_storeu_ps(out + r * width + d, sums[r]);
  }
}

template <bool kBf16>
KVPLANE_TARGET_AVX2 void AttendTile(const AttentionArgs& args, const State& s, uint32_t tile, uint32_t rows) {
  const size_t width = args.head_dim;
  for (uint32_t first = 0; first < rows; first += kRows) {
    const uint32_t count = rows - first < kRows ? rows - first : kRows;
    KeyRange ranges[kRows];
    bool any = false;
    for (uint32_t r = 0; r < count; ++r) {
      const KeyRange keys = VisibleKeys(args.first_position + (first + r) / args.group, args.window);
      ranges[r].begin = keys.begin > tile ? keys.begin - tile : 0;
      ranges[r].end = keys.end > tile ? keys.end - tile : 0;
      if (ranges[r].end > kTile) ranges[r].end = kTile;
      any = any || ranges[r].begin < ranges[r].end;
    }
    if (!any) continue;
    Scores(s.q + first * width, s.k, width, count, args.scale * kLog2E, s.p);
    float corrections[kRows] = {1.0f, 1.0f, 1.0f, 1.0f};
    for (uint32_t r = 0; r < count; ++r) {
      float* p = s.p + r * kTile;
      if (ranges[r].begin >= ranges[r].end) {
        std::memset(p, 0, kTile * sizeof(float));
        continue;
      }
      corrections[r] =
          Softmax<kBf16>(p, ranges[r].begin, ranges[r].end, s.maximum + first + r, s.sum + first + r);
    }
    Accumulate(s.p, s.v, width, count, corrections, s.out + first * width);
  }
}

template <bool kBf16, typename Out>
KVPLANE_TARGET_AVX2 void Attend(const AttentionArgs& args, Out* out) {
  const uint32_t rows = args.tokens * args.group;
  const size_t width = args.head_dim;
  const State s = Carve(args, rows);
  for (uint32_t row = 0; row < rows; ++row) {
    const float* from = args.q + row / args.group * args.q_stride + row % args.group * width;
    for (size_t d = 0; d < width; ++d) {
      s.q[row * width + d] = kBf16 ? tensor::Bf16ToFloat(tensor::FloatToBf16(from[d])) : from[d];
    }
    s.maximum[row] = -INFINITY;
    s.sum[row] = 0;
  }
  std::memset(s.out, 0, rows * width * sizeof(float));
  const uint32_t end = args.first_position + args.tokens;
  for (uint32_t tile = VisibleKeys(args.first_position, args.window).begin / kTile * kTile; tile < end;
       tile += kTile) {
    Widen(args, tensor::Side::kKey, tile, end, s.k);
    Widen(args, tensor::Side::kValue, tile, end, s.v);
    AttendTile<kBf16>(args, s, tile, rows);
  }
  for (uint32_t row = 0; row < rows; ++row) {
    Out* to = out + row / args.group * args.out_stride + row % args.group * width;
    for (size_t d = 0; d < width; ++d) {
      const float value = s.out[row * width + d] / s.sum[row];
      if constexpr (kBf16) {
        to[d] = tensor::FloatToBf16(value);
      } else {
        to[d] = value;
      }
    }
  }
}

}  // namespace

const AttentionKernels kAttentionAvx2 = {Attend<false, float>, Attend<true, uint16_t>};

}  // namespace kvplane::kernel
