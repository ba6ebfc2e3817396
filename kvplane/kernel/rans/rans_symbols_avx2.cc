#include "kvplane/kernel/rans/rans_lanes_avx2.h"
#include "kvplane/kernel/rans/rans_symbols_driver.h"

namespace kvplane::kernel::internal {
namespace {

KVPLANE_INLINE_AVX2 Alphabet AlphabetOf(const RansTable& table, uint32_t lanes) {
  return {&table.bytes, table.decode.symbol, static_cast<int>(table.alphabet), table.alphabet > 16,
          LiveMask(lanes)};
}

// The bytes of the live lanes, unpacked; zeros in the others.
template <bool kPartial>
KVPLANE_INLINE_AVX2 Pair LoadSymbols(const uint8_t* from, uint32_t lanes) {
  __m256i bytes;
  if (kPartial && lanes < kRansLanes) {
    alignas(32) uint8_t row[kRansLanes] = {};
    std::memcpy(row, from, lanes);
    bytes = _mm256_load_si256(reinterpret_cast<const __m256i*>(row));
  } else {
    bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  return {_mm256_cvtepu8_epi16(_mm256_castsi256_si128(bytes)),
          _mm256_cvtepu8_epi16(_mm256_extracti128_si256(bytes, 1))};
}
template <bool kPartial>
KVPLANE_INLINE_AVX2 void StoreSymbols(const Pair& symbols, uint32_t lanes, uint8_t* to) {
  const __m256i packed = _mm256_packus_epi16(symbols.low, symbols.high);
  const __m256i bytes = _mm256_permute4x64_epi64(packed, 0xd8);
  if (kPartial && lanes < kRansLanes) {
    alignas(32) uint8_t row[kRansLanes];
    _mm256_store_si256(reinterpret_cast<__m256i*>(row), bytes);
    std::memcpy(to, row, lanes);
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
  }
}

template <uint32_t kWidth, bool kPartial>
KVPLANE_TARGET_AVX2 void EncodeLoop(SymbolEncodeJob& job, uint32_t from, uint32_t to) {
  const RansSymbolShape& shape = *job.shape;
  Pair x[kWidth];
  for (uint32_t v = 0; v < kWidth; ++v) x[v] = LoadPair(job.states[v].x);
  for (uint32_t t = to; t-- > from;) {
    for (uint32_t h = shape.heads; h-- > 0;) {
      const size_t row = t * shape.token_stride + h * shape.head_stride;
      for (uint32_t i = shape.head_groups(); i-- > 0;) {
        const uint32_t lanes = std::min(kRansLanes, shape.head_dim - i * kRansLanes);
        const Alphabet alphabet = AlphabetOf(*shape.tables[h], lanes);
        for (uint32_t v = 0; v < kWidth; ++v) {
          const Pair symbols = LoadSymbols<kPartial>(job.symbols[v] + row + i * kRansLanes, lanes);
          Push<kPartial, true>(x[v], job.at[v], symbols, alphabet);
        }
      }
    }
  }
  for (uint32_t v = 0; v < kWidth; ++v) StorePair(job.states[v].x, x[v]);
}

template <uint32_t kWidth, bool kFast, bool kPartial>
KVPLANE_INLINE_AVX2 void DecodeHead(Decoder<kWidth>& decoder, const SymbolDecodeJob& job, size_t row,
                                    uint32_t head) {
  const RansSymbolShape& shape = *job.shape;
  for (uint32_t c = 0; c < shape.head_dim; c += kRansLanes) {
    const uint32_t lanes = std::min(kRansLanes, shape.head_dim - c);
    const Alphabet alphabet = AlphabetOf(*shape.tables[head], lanes);
    for (uint32_t v = 0; v < kWidth; ++v) {
      const Pair symbols = Pop<kFast, kPartial>(decoder.x[v], decoder.cursor[v], alphabet);
      StoreSymbols<kPartial>(symbols, lanes, job.symbols[v] + row + c);
    }
  }
}

template <uint32_t kWidth, bool kPartial>
KVPLANE_TARGET_AVX2 void DecodeLoop(SymbolDecodeJob& job, uint32_t from, uint32_t to) {
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
  for (uint32_t v = 0; v < kWidth; ++v) {
    StorePair(job.states[v].x, decoder.x[v]);
    job.at[v] = decoder.cursor[v].at;
    job.overrun[v] |= decoder.cursor[v].overrun;
  }
}

struct Avx2SymbolCore {
  static constexpr uint32_t kWidths[] = {2, 1};

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

const RansSymbolKernels kRansSymbolsAvx2 = {RansSymbolDriver<Avx2SymbolCore>::Encode,
                                            RansSymbolDriver<Avx2SymbolCore>::Decode, CountSymbolsScalar};

}  // namespace kvplane::kernel::internal
