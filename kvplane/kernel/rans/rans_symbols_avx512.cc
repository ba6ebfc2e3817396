#include <array>

#include "kvplane/kernel/rans/rans_lanes_avx512.h"
#include "kvplane/kernel/rans/rans_symbols_driver.h"

// A single table stays in registers; several are loaded step by step, as the class ladder is.

namespace kvplane::kernel::internal {
namespace {

KVPLANE_INLINE_AVX512 const RansTable& TableOf(const RansSymbolShape& shape, uint32_t group) {
  return shape.tables[shape.table_of_group[group]];
}

template <uint32_t kWidth, bool kPartial, bool kSingle>
KVPLANE_TARGET_AVX512 void EncodeLoop(SymbolEncodeJob& job, uint32_t from, uint32_t to) {
  const RansSymbolShape& shape = *job.shape;
  const EncodeTables single = Load(shape.tables[0].encode);
  __m512i x[kWidth];
  std::byte* at[kWidth];
#pragma GCC unroll 8
  for (uint32_t v = 0; v < kWidth; ++v) {
    x[v] = _mm512_load_si512(job.states[v].x);
    at[v] = job.at[v];
  }
  for (uint32_t t = to; t-- > from;) {
    uint32_t group = shape.heads * shape.head_groups();
    for (uint32_t h = shape.heads; h-- > 0;) {
      const size_t row = t * shape.token_stride + h * shape.head_stride;
      for (uint32_t i = shape.head_groups(); i-- > 0;) {
        const EncodeTables tables = kSingle ? single : Load(TableOf(shape, --group).encode);
        const __mmask32 live = kPartial ? LiveMask(shape.head_dim - i * kRansLanes) : 0xffffffffu;
#pragma GCC unroll 8
        for (uint32_t v = 0; v < kWidth; ++v) {
          const uint8_t* const here = job.symbols[v] + row + i * kRansLanes;
          const __m256i bytes = kPartial ? _mm256_maskz_loadu_epi8(live, here)
                                         : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(here));
          Push<kPartial, true>(x[v], at[v], _mm512_cvtepu8_epi16(bytes), tables, live);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (uint32_t v = 0; v < kWidth; ++v) {
    _mm512_store_si512(job.states[v].x, x[v]);
    job.at[v] = at[v];
  }
}

template <uint32_t kWidth, bool kFast, bool kPartial, bool kSingle>
KVPLANE_INLINE_AVX512 void DecodeHead(Decoder<kWidth>& decoder, const SymbolDecodeJob& job,
                                      const DecodeTables& single, size_t row, uint32_t group) {
  const RansSymbolShape& shape = *job.shape;
  for (uint32_t c = 0; c < shape.head_dim; c += kRansLanes, ++group) {
    const DecodeTables tables = kSingle ? single : Load(TableOf(shape, group).decode);
    const __mmask32 live = kPartial ? LiveMask(shape.head_dim - c) : 0xffffffffu;
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) {
      const __m512i symbols = Pop<kFast, kPartial>(decoder.x[v], decoder.cursor[v], tables, live);
      const __m256i bytes = _mm512_cvtepi16_epi8(symbols);
      uint8_t* const here = job.symbols[v] + row + c;
      if constexpr (kPartial) {
        _mm256_mask_storeu_epi8(here, live, bytes);
      } else {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(here), bytes);
      }
    }
  }
}

template <uint32_t kWidth, bool kPartial, bool kSingle>
KVPLANE_TARGET_AVX512 void DecodeLoop(SymbolDecodeJob& job, uint32_t from, uint32_t to) {
  const RansSymbolShape& shape = *job.shape;
  const uint32_t groups = shape.head_groups();
  const DecodeTables single = Load(shape.tables[0].decode);
  Decoder<kWidth> decoder(job);
  for (uint32_t t = from; t < to; ++t) {
    for (uint32_t h = 0; h < shape.heads; ++h) {
      const size_t row = t * shape.token_stride + h * shape.head_stride;
      if (decoder.Fast(groups)) {
        DecodeHead<kWidth, true, kPartial, kSingle>(decoder, job, single, row, h * groups);
      } else {
        DecodeHead<kWidth, false, kPartial, kSingle>(decoder, job, single, row, h * groups);
      }
    }
  }
#pragma GCC unroll 8
  for (uint32_t v = 0; v < kWidth; ++v) {
    _mm512_store_si512(job.states[v].x, decoder.x[v]);
    job.at[v] = decoder.cursor[v].at;
    job.overrun[v] |= decoder.cursor[v].overrun;
  }
}

// --- Counting ---

// Two counters of four bits in a byte, for the symbols 2k and 2k + 1: one shuffle and one addition count them
// in 64 symbols. After 15 of those they are moved on before they overflow.
constexpr uint32_t kNibbleRounds = 15;
constexpr uint32_t kPairs = kRansMaxAlphabet / 2;

struct PairIncrements {
  alignas(64) std::array<std::array<uint8_t, 64>, kPairs> of;  // [pair][symbol]; 0 beyond the alphabet
};
constexpr PairIncrements MakeIncrements() {
  PairIncrements increments = {};
  for (size_t k = 0; k < kPairs; ++k) {
    increments.of[k][2 * k] = 1;
    increments.of[k][2 * k + 1] = 16;
  }
  return increments;
}
constexpr PairIncrements kIncrements = MakeIncrements();

// Adds what the nibbles of `pairs` hold to the counts of its symbols.
template <uint32_t kCount>
KVPLANE_INLINE_AVX512 void Flush(const __m512i (&pairs)[kCount], __m512i (&even)[kCount],
                                 __m512i (&odd)[kCount]) {
  const __m512i low = _mm512_set1_epi8(0x0f);
  const __m512i zero = _mm512_setzero_si512();
#pragma GCC unroll 16
  for (uint32_t k = 0; k < kCount; ++k) {
    const __m512i high = _mm512_and_si512(_mm512_srli_epi16(pairs[k], 4), low);
    even[k] = _mm512_add_epi64(even[k], _mm512_sad_epu8(_mm512_and_si512(pairs[k], low), zero));
    odd[k] = _mm512_add_epi64(odd[k], _mm512_sad_epu8(high, zero));
  }
}

struct Region {
  const uint8_t* symbols;
  uint32_t rows;
  size_t row_stride;
  __mmask32 columns;
};

// Two rows in one vector; what is not there is given the symbol 63, which counts for nothing.
KVPLANE_INLINE_AVX512 __m512i TwoRows(const Region& region, uint32_t row) {
  const __m256i none = _mm256_set1_epi8(63);
  const uint8_t* const first = region.symbols + row * region.row_stride;
  const __m256i a = _mm256_mask_loadu_epi8(none, region.columns, first);
  const __m256i b =
      row + 1 < region.rows ? _mm256_mask_loadu_epi8(none, region.columns, first + region.row_stride) : none;
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

// kCount pairs of symbols from 2 * kFirst on.
template <uint32_t kFirst, uint32_t kCount>
KVPLANE_TARGET_AVX512 void CountPairs(const Region& region, uint32_t* counts) {
  __m512i even[kCount], odd[kCount];
  for (uint32_t k = 0; k < kCount; ++k) even[k] = odd[k] = _mm512_setzero_si512();
  for (uint32_t row = 0; row < region.rows;) {
    __m512i pairs[kCount];
    for (uint32_t k = 0; k < kCount; ++k) pairs[k] = _mm512_setzero_si512();
    const uint32_t stop = std::min(region.rows, row + 2 * kNibbleRounds);
    for (; row < stop; row += 2) {
      const __m512i symbols = TwoRows(region, row);
#pragma GCC unroll 16
      for (uint32_t k = 0; k < kCount; ++k) {
        const __m512i increments = _mm512_load_si512(kIncrements.of[kFirst + k].data());
        pairs[k] = _mm512_add_epi8(pairs[k], _mm512_permutexvar_epi8(symbols, increments));
      }
    }
    Flush<kCount>(pairs, even, odd);
  }
  for (uint32_t k = 0; k < kCount; ++k) {
    counts[2 * (kFirst + k)] += static_cast<uint32_t>(_mm512_reduce_add_epi64(even[k]));
    counts[2 * (kFirst + k) + 1] += static_cast<uint32_t>(_mm512_reduce_add_epi64(odd[k]));
  }
}

KVPLANE_TARGET_AVX512 bool AnyAbove15(const Region& region) {
  __m256i all = _mm256_setzero_si256();
  for (uint32_t row = 0; row < region.rows; ++row) {
    all = _mm256_or_si256(all,
                          _mm256_maskz_loadu_epi8(region.columns, region.symbols + row * region.row_stride));
  }
  return _mm256_test_epi8_mask(all, _mm256_set1_epi8(16)) != 0;
}

KVPLANE_TARGET_AVX512 void Count(const uint8_t* symbols, uint32_t rows, size_t row_stride, uint32_t columns,
                                 uint32_t* counts) {
  const Region region = {symbols, rows, row_stride, LiveMask(columns)};
  CountPairs<0, kPairs / 2>(region, counts);
  if (AnyAbove15(region)) CountPairs<kPairs / 2, kPairs / 2>(region, counts);
}

struct Avx512SymbolCore {
  static constexpr uint32_t kWidths[] = {8, 4, 2, 1};

  template <uint32_t kWidth>
  static void Encode(SymbolEncodeJob& job, uint32_t from, uint32_t to) {
    const bool single = job.shape->table_count == 1;
    if (job.shape->head_dim % kRansLanes != 0) return EncodeLoop<kWidth, true, false>(job, from, to);
    if (single) return EncodeLoop<kWidth, false, true>(job, from, to);
    EncodeLoop<kWidth, false, false>(job, from, to);
  }
  template <uint32_t kWidth>
  static void Decode(SymbolDecodeJob& job, uint32_t from, uint32_t to) {
    const bool single = job.shape->table_count == 1;
    if (job.shape->head_dim % kRansLanes != 0) return DecodeLoop<kWidth, true, false>(job, from, to);
    if (single) return DecodeLoop<kWidth, false, true>(job, from, to);
    DecodeLoop<kWidth, false, false>(job, from, to);
  }
};

}  // namespace

const RansSymbolKernels kRansSymbolsAvx512 = {RansSymbolDriver<Avx512SymbolCore>::Encode,
                                              RansSymbolDriver<Avx512SymbolCore>::Decode, Count};

}  // namespace kvplane::kernel::internal
