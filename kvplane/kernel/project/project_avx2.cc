// Register blocks of up to 4 rows by 16 columns: 8 sums and the widened matrix pair in 16 registers.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kvplane/kernel/project/project_tables.h"
#include "kvplane/kernel/row_frame/row_frame_definition.h"

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kRowsPerBlock = 4;
constexpr uint32_t kColumnsPerBlock = 16;

struct Sums {
  __m256 v;
};

template <uint32_t kRows>
KVPLANE_TARGET_AVX2 inline void AddPair(const uint16_t* const (&x)[kRows], uint32_t k, bool odd_exists,
                                        const uint16_t* m, Sums (&sums)[kRows][2]) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u));
  const __m256i low = _mm256_load_si256(reinterpret_cast<const __m256i*>(m));
  const __m256i high = _mm256_load_si256(reinterpret_cast<const __m256i*>(m + 16));
  const __m256 even[2] = {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
                          _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
  const __m256 odd[2] = {_mm256_castsi256_ps(_mm256_and_si256(low, upper)),
                         _mm256_castsi256_ps(_mm256_and_si256(high, upper))};
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kRows; ++i) {
    const __m256 x_even = _mm256_set1_ps(FromBf16(x[i][k]));
    const __m256 x_odd = _mm256_set1_ps(odd_exists ? FromBf16(x[i][k + 1]) : 0.0f);
    for (uint32_t j = 0; j < 2; ++j) {
      sums[i][j].v = _mm256_fmadd_ps(x_odd, odd[j], _mm256_fmadd_ps(x_even, even[j], sums[i][j].v));
    }
  }
}

inline void StoreRow(const float* sums, uint32_t columns, float* y) { std::copy_n(sums, columns, y); }
inline void StoreRow(const float* sums, uint32_t columns, uint16_t* y) {
  for (uint32_t c = 0; c < columns; ++c) y[c] = ToBf16(sums[c]);
}

// Columns [first + at, ...) of the panel that begins at `first`.
template <uint32_t kRows, typename Element>
KVPLANE_TARGET_AVX2 void Block(const Projection& p, uint32_t token, uint32_t first, uint32_t at, Element* y,
                               size_t y_stride) {
  const uint16_t* x[kRows];
  Sums sums[kRows][2];
  for (uint32_t i = 0; i < kRows; ++i) {
    x[i] = p.x + (token + i) * p.x_stride;
    sums[i][0].v = sums[i][1].v = _mm256_setzero_ps();
  }
  const uint16_t* m = p.matrix->Panel(first) + size_t{2} * at;
  const size_t step = size_t{2} * p.matrix->PanelWidth(first);
  uint32_t k = 0;
  for (; k + 2 <= p.depth; k += 2, m += step) AddPair(x, k, true, m, sums);
  if (k < p.depth) AddPair(x, k, false, m, sums);
  const uint32_t columns = std::min(p.columns - first - at, kColumnsPerBlock);
  alignas(32) float row[kColumnsPerBlock];
  for (uint32_t i = 0; i < kRows; ++i) {
    _mm256_store_ps(row, sums[i][0].v);
    _mm256_store_ps(row + 8, sums[i][1].v);
    StoreRow(row, columns, y + (token + i) * y_stride + first + at);
  }
}

template <typename Element>
void Columns(const Projection& p, Element* y, size_t y_stride) {
  for (uint32_t c = 0; c < p.columns; c += kColumnsPerBlock) {
    const uint32_t first = c / PackedMatrix::kPanelColumns * PackedMatrix::kPanelColumns;
    uint32_t t = 0;
    for (; t + kRowsPerBlock <= p.tokens; t += kRowsPerBlock) {
      Block<kRowsPerBlock>(p, t, first, c - first, y, y_stride);
    }
    for (; t < p.tokens; ++t) Block<1>(p, t, first, c - first, y, y_stride);
  }
}

}  // namespace

constinit const ProjectKernel kProjectAvx2 = {"avx2", Isa::kAvx2, Columns<float>, Columns<uint16_t>};

}  // namespace kvplane::kernel::internal
