// Register blocks of up to 6 rows by 64 columns: 24 sums, 4 vectors of the matrix, 1 broadcast pair of x.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kvplane/kernel/project/project_tables.h"

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kRowsPerBlock = 6;

struct Sums {
  __m512 v;
};

// x[k], x[k + 1] of every lane; the odd one is zero where the row ends.
KVPLANE_TARGET_AVX512 inline __m512i BroadcastPair(const uint16_t* x, uint32_t k, bool odd_exists) {
  uint32_t pair = x[k];
  if (odd_exists) std::memcpy(&pair, x + k, sizeof(pair));
  return _mm512_set1_epi32(static_cast<int32_t>(pair));
}

// Adds one pair of matrix rows (kVectors * 16 columns) to all sums of a block.
template <bool kDot, uint32_t kRows, uint32_t kVectors>
KVPLANE_TARGET_AVX512 inline void AddPair(const uint16_t* const (&x)[kRows], uint32_t k, bool odd_exists,
                                          const uint16_t* m, Sums (&sums)[kRows][kVectors]) {
  __m512i matrix[kVectors];
#pragma GCC unroll 4
  for (uint32_t j = 0; j < kVectors; ++j) matrix[j] = _mm512_load_si512(m + 32 * j);
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
#pragma GCC unroll 6
  for (uint32_t i = 0; i < kRows; ++i) {
    const __m512i pair = BroadcastPair(x[i], k, odd_exists);
    if constexpr (kDot) {
#pragma GCC unroll 4
      for (uint32_t j = 0; j < kVectors; ++j) {
        sums[i][j].v = _mm512_dpbf16_ps(sums[i][j].v, reinterpret_cast<__m512bh>(pair),
                                        reinterpret_cast<__m512bh>(matrix[j]));
      }
    } else {
      const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
      const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(pair, upper));
#pragma GCC unroll 4
      for (uint32_t j = 0; j < kVectors; ++j) {
        const __m512 m_even = _mm512_castsi512_ps(_mm512_slli_epi32(matrix[j], 16));
        const __m512 m_odd = _mm512_castsi512_ps(_mm512_and_si512(matrix[j], upper));
        sums[i][j].v = _mm512_fmadd_ps(odd, m_odd, _mm512_fmadd_ps(even, m_even, sums[i][j].v));
      }
    }
  }
}

KVPLANE_TARGET_AVX512 inline void Store(__m512 sums, __mmask16 mask, float* y) {
  _mm512_mask_storeu_ps(y, mask, sums);
}
KVPLANE_TARGET_AVX512 inline void Store(__m512 sums, __mmask16 mask, uint16_t* y) {
  _mm256_mask_storeu_epi16(y, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sums)));
}

template <bool kDot, uint32_t kRows, uint32_t kVectors, typename Element>
KVPLANE_TARGET_AVX512 void Block(const Projection& p, uint32_t token, uint32_t first, uint32_t columns,
                                 const uint16_t* m, Element* y, size_t y_stride) {
  const uint16_t* x[kRows];
  Sums sums[kRows][kVectors];
  for (uint32_t i = 0; i < kRows; ++i) {
    x[i] = p.x + (token + i) * p.x_stride;
    for (uint32_t j = 0; j < kVectors; ++j) sums[i][j].v = _mm512_setzero_ps();
  }
  const size_t step = size_t{2} * p.matrix->PanelWidth(first);
  uint32_t k = 0;
  for (; k + 2 <= p.depth; k += 2, m += step) AddPair<kDot>(x, k, true, m, sums);
  if (k < p.depth) AddPair<kDot>(x, k, false, m, sums);
  for (uint32_t i = 0; i < kRows; ++i) {
    for (uint32_t j = 0; j < kVectors; ++j) {
      const uint32_t left = columns - 16 * j;
      const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
      Store(sums[i][j].v, mask, y + (token + i) * y_stride + first + 16 * j);
    }
  }
}

template <bool kDot, uint32_t kVectors, typename Element>
KVPLANE_TARGET_AVX512 void Panel(const Projection& p, uint32_t first, uint32_t columns, Element* y,
                                 size_t y_stride) {
  const uint16_t* m = p.matrix->Panel(first);
  uint32_t t = 0;
  for (; t + kRowsPerBlock <= p.tokens; t += kRowsPerBlock) {
    Block<kDot, kRowsPerBlock, kVectors>(p, t, first, columns, m, y, y_stride);
  }
  if (p.tokens - t >= 4) {
    Block<kDot, 4, kVectors>(p, t, first, columns, m, y, y_stride);
    t += 4;
  }
  if (p.tokens - t >= 2) {
    Block<kDot, 2, kVectors>(p, t, first, columns, m, y, y_stride);
    t += 2;
  }
  if (t < p.tokens) Block<kDot, 1, kVectors>(p, t, first, columns, m, y, y_stride);
}

template <bool kDot, typename Element>
void Columns(const Projection& p, Element* y, size_t y_stride) {
  for (uint32_t first = 0; first < p.columns; first += PackedMatrix::kPanelColumns) {
    const uint32_t columns = std::min(p.columns - first, PackedMatrix::kPanelColumns);
    switch ((columns + 15) / 16) {
      case 4:
        Panel<kDot, 4>(p, first, columns, y, y_stride);
        break;
      case 3:
        Panel<kDot, 3>(p, first, columns, y, y_stride);
        break;
      case 2:
        Panel<kDot, 2>(p, first, columns, y, y_stride);
        break;
      default:
        Panel<kDot, 1>(p, first, columns, y, y_stride);
    }
  }
}

}  // namespace

constinit const ProjectKernel kProjectAvx512Wide = {"avx512-f32", Isa::kAvx512, Columns<false, float>,
                                                    Columns<false, uint16_t>};
constinit const ProjectKernel kProjectAvx512Dot = {"avx512-bf16", Isa::kAvx512, Columns<true, float>,
                                                   Columns<true, uint16_t>};

}  // namespace kvplane::kernel::internal
