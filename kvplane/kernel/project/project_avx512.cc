// Register blocks of up to 6 rows by 64 columns: 24 sums, 4 vectors of the matrix, 1 broadcast pair of x.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kvplane/kernel/prefetch.h"
#include "kvplane/kernel/project/project_tables.h"

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kRowsPerBlock = 6;
// Of longer rows the hardware fetches the rest ahead.
constexpr uint32_t kPrefetchedDepth = 256;

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

// The columns of one row from its vectors of sums; `last` masks the lanes of the last vector. Two vectors of
// bf16 fill one register.
template <uint32_t kVectors>
KVPLANE_TARGET_AVX512 inline void StoreRow(const Sums (&sums)[kVectors], __mmask16 last, float* y) {
#pragma GCC unroll 4
  for (uint32_t j = 0; j + 1 < kVectors; ++j) _mm512_storeu_ps(y + 16 * j, sums[j].v);
  _mm512_mask_storeu_ps(y + 16 * (kVectors - 1), last, sums[kVectors - 1].v);
}
template <uint32_t kVectors>
KVPLANE_TARGET_AVX512 inline void StoreRow(const Sums (&sums)[kVectors], __mmask16 last, uint16_t* y) {
#pragma GCC unroll 2
  for (uint32_t j = 0; j + 2 < kVectors; j += 2) {
    _mm512_storeu_si512(y + 16 * j, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(sums[j + 1].v, sums[j].v)));
  }
  const __m512 top = sums[kVectors - 1].v;
  if constexpr (kVectors % 2 == 0) {
    const __mmask32 mask = static_cast<__mmask32>(last) << 16 | 0xffffu;
    _mm512_mask_storeu_epi16(y + 16 * (kVectors - 2), mask,
                             reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(top, sums[kVectors - 2].v)));
  } else {
    _mm256_mask_storeu_epi16(y + 16 * (kVectors - 1), last,
                             reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(top)));
  }
}

// What all blocks of a panel share.
struct PanelPlace {
  const uint16_t* m;  // packed pairs of matrix rows
  size_t pair_step;   // from one pair to the next
  __mmask16 last;     // columns that exist of the last vector
  bool prefetch;      // the rows of x have not been read yet
};

// Rows [token, token + kRows) of a panel. y: their first column of it.
template <bool kDot, uint32_t kRows, uint32_t kVectors, typename Element>
KVPLANE_TARGET_AVX512 void Block(const Projection& p, uint32_t token, const PanelPlace& panel, Element* y,
                                 size_t y_stride) {
  const uint16_t* x[kRows];
  Sums sums[kRows][kVectors];
#pragma GCC unroll 6
  for (uint32_t i = 0; i < kRows; ++i) {
    x[i] = p.x + (token + i) * p.x_stride;
#pragma GCC unroll 4
    for (uint32_t j = 0; j < kVectors; ++j) sums[i][j].v = _mm512_setzero_ps();
  }
  // A block is more work than the reorder window holds.
  if (panel.prefetch) {
    const uint32_t next = std::min(token + 2 * kRows, p.tokens);
    for (uint32_t t = token + kRows; t < next; ++t) {
      PrefetchRow(p.x + t * p.x_stride, std::min(p.depth, kPrefetchedDepth));
    }
  }
  const __mmask16 last = panel.last;  // y could be anywhere, as far as the compiler knows
  const uint16_t* m = panel.m;
  uint32_t k = 0;
  for (; k + 2 <= p.depth; k += 2, m += panel.pair_step) AddPair<kDot>(x, k, true, m, sums);
  if (k < p.depth) AddPair<kDot>(x, k, false, m, sums);
#pragma GCC unroll 6
  for (uint32_t i = 0; i < kRows; ++i) StoreRow(sums[i], last, y + (token + i) * y_stride);
}

template <bool kDot, uint32_t kVectors, typename Element>
KVPLANE_TARGET_AVX512 void Panel(const Projection& p, uint32_t first, uint32_t columns, Element* y,
                                 size_t y_stride) {
  const uint32_t last = columns - 16 * (kVectors - 1);
  const PanelPlace panel = {p.matrix->Panel(first), size_t{2} * p.matrix->PanelWidth(first),
                            static_cast<__mmask16>((1u << last) - 1u), first == 0};
  y += first;
  uint32_t t = 0;
  for (; t + kRowsPerBlock <= p.tokens; t += kRowsPerBlock) {
    Block<kDot, kRowsPerBlock, kVectors>(p, t, panel, y, y_stride);
  }
  if (p.tokens - t >= 4) {
    Block<kDot, 4, kVectors>(p, t, panel, y, y_stride);
    t += 4;
  }
  if (p.tokens - t >= 2) {
    Block<kDot, 2, kVectors>(p, t, panel, y, y_stride);
    t += 2;
  }
  if (t < p.tokens) Block<kDot, 1, kVectors>(p, t, panel, y, y_stride);
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
