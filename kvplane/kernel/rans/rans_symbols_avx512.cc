#include <array>

#include "kvplane/kernel/rans/rans_lanes_avx512.h"
#include "kvplane/kernel/rans/rans_symbols_driver.h"

namespace kvplane::kernel::internal {
namespace {

template <uint32_t kWidth, bool kPartial>
KVPLANE_TARGET_AVX512 void EncodeLoop(SymbolEncodeJob& job, uint32_t from, uint32_t to) {
  const RansSymbolShape& shape = *job.shape;
  __m512i x[kWidth];
  std::byte* at[kWidth];
#pragma GCC unroll 8
  for (uint32_t v = 0; v < kWidth; ++v) {
    x[v] = _mm512_load_si512(job.states[v].x);
    at[v] = job.at[v];
  }
  for (uint32_t t = to; t-- > from;) {
    for (uint32_t h = shape.heads; h-- > 0;) {
      const size_t row = t * shape.token_stride + h * shape.head_stride;
      const EncodeTables tables = Load(shape.tables[h]->encode);
      for (uint32_t i = shape.head_groups(); i-- > 0;) {
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

template <uint32_t kWidth, bool kFast, bool kPartial>
KVPLANE_INLINE_AVX512 void DecodeHead(Decoder<kWidth>& decoder, const SymbolDecodeJob& job, size_t row,
                                      uint32_t head) {
  const RansSymbolShape& shape = *job.shape;
  const DecodeTables tables = Load(shape.tables[head]->decode);
  for (uint32_t c = 0; c < shape.head_dim; c += kRansLanes) {
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

template <uint32_t kWidth, bool kPartial>
KVPLANE_TARGET_AVX512 void DecodeLoop(SymbolDecodeJob& job, uint32_t from, uint32_t to) {
  const RansSymbolShape& shape = *job.shape;
  const uint32_t groups = shape.head_groups();
  Decoder<kWidth> decoder(job);
  for (uint32_t t = from; t < to; ++t) {
    for (uint32_t h = 0; h < shape.heads; ++h) {
      const size_t row = t * shape.token_stride + h * shape.head_stride;
      if (decoder.Fast(groups)) {
        DecodeHead<kWidth, true, kPartial>(decoder, job, row, h);
      } else {
        DecodeHead<kWidth, false, kPartial>(decoder, job, row, h);
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
#pragma GCC unroll 8
  for (uint32_t k = 0; k < kCount; ++k) {
    const __m512i high = _mm512_and_si512(_mm512_srli_epi16(pairs[k], 4), low);
    even[k] = _mm512_add_epi64(even[k], _mm512_sad_epu8(_mm512_and_si512(pairs[k], low), zero));
    odd[k] = _mm512_add_epi64(odd[k], _mm512_sad_epu8(high, zero));
  }
}

// Behind the end lies the symbol 63, which counts for nothing.
template <bool kWhole>
KVPLANE_INLINE_AVX512 __m512i LoadSymbols(const uint8_t* symbols, size_t left) {
  if constexpr (kWhole) return _mm512_loadu_si512(symbols);
  const __mmask64 here = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
  return _mm512_mask_loadu_epi8(_mm512_set1_epi8(63), here, symbols);
}

// The symbols below 2 * kCount, of at most kNibbleRounds vectors.
template <uint32_t kCount, bool kWhole>
KVPLANE_INLINE_AVX512 void CountSome(const uint8_t* symbols, size_t size, uint32_t first,
                                     __m512i (&even)[kCount], __m512i (&odd)[kCount]) {
  __m512i pairs[kCount];
#pragma GCC unroll 8
  for (uint32_t k = 0; k < kCount; ++k) pairs[k] = _mm512_setzero_si512();
  for (size_t i = 0; i < size; i += 64) {
    const __m512i vector = LoadSymbols<kWhole>(symbols + i, size - i);
#pragma GCC unroll 8
    for (uint32_t k = 0; k < kCount; ++k) {
      const __m512i increments = _mm512_load_si512(kIncrements.of[first + k].data());
      pairs[k] = _mm512_add_epi8(pairs[k], _mm512_permutexvar_epi8(vector, increments));
    }
  }
  Flush<kCount>(pairs, even, odd);
}

// kCount pairs of symbols from 2 * first on.
template <uint32_t kCount>
KVPLANE_TARGET_AVX512 void CountPairs(const uint8_t* symbols, size_t size, uint32_t first, uint32_t* counts) {
  constexpr size_t kRun = size_t{64} * kNibbleRounds;
  __m512i even[kCount], odd[kCount];
  for (uint32_t k = 0; k < kCount; ++k) even[k] = odd[k] = _mm512_setzero_si512();
  for (; size >= kRun; size -= kRun, symbols += kRun)
    CountSome<kCount, true>(symbols, kRun, first, even, odd);
  if (size > 0) CountSome<kCount, false>(symbols, size, first, even, odd);
  for (uint32_t k = 0; k < kCount; ++k) {
    counts[2 * (first + k)] += static_cast<uint32_t>(_mm512_reduce_add_epi64(even[k]));
    counts[2 * (first + k) + 1] += static_cast<uint32_t>(_mm512_reduce_add_epi64(odd[k]));
  }
}

// Four pairs at a time: more do not fit the registers, and a second pass over the symbols costs less.
void Count(const uint8_t* symbols, size_t size, uint32_t alphabet, uint32_t* counts) {
  constexpr uint32_t kAtOnce = 4;
  const uint32_t pairs = (alphabet + 1) / 2;
  for (uint32_t first = 0; first < pairs; first += kAtOnce) {
    if (pairs - first > kAtOnce / 2) {
      CountPairs<kAtOnce>(symbols, size, first, counts);
    } else {
      CountPairs<kAtOnce / 2>(symbols, size, first, counts);
    }
  }
}

struct Avx512SymbolCore {
  static constexpr uint32_t kWidths[] = {8, 4, 2, 1};

  template <uint32_t kWidth>
  static void Encode(SymbolEncodeJob& job, uint32_t from, uint32_t to) {
    if (job.shape->head_dim % kRansLanes != 0) return EncodeLoop<kWidth, true>(job, from, to);
    EncodeLoop<kWidth, false>(job, from, to);
  }
  template <uint32_t kWidth>
  static void Decode(SymbolDecodeJob& job, uint32_t from, uint32_t to) {
    if (job.shape->head_dim % kRansLanes != 0) return DecodeLoop<kWidth, true>(job, from, to);
    DecodeLoop<kWidth, false>(job, from, to);
  }
};

}  // namespace

const RansSymbolKernels kRansSymbolsAvx512 = {RansSymbolDriver<Avx512SymbolCore>::Encode,
                                              RansSymbolDriver<Avx512SymbolCore>::Decode, Count};

}  // namespace kvplane::kernel::internal
