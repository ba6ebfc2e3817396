// Groups of channels: a vector of parameters for each vector of channels, in registers over all tokens.
#include <immintrin.h>

#include <algorithm>

#include "kvplane/kernel/pack/pack.h"
#include "kvplane/kernel/prefetch.h"
#include "kvplane/kernel/quantize/quantize_lanes_avx512.h"

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kMaxChunks = 4;  // 128 channels at a time: two parameter vectors per chunk and half fit

// kChunks chunks of 32 channels of all rows; `last` masks the lanes of the last chunk.
template <uint32_t kBits, uint32_t kChunks, bool kFull>
KVPLANE_TARGET_AVX512 bool EncodeBlock(const uint16_t* const* rows, uint32_t tokens, uint32_t first,
                                       uint32_t last, size_t row_bytes, Levels levels, size_t ahead,
                                       std::byte* zeros, std::byte* scales, std::byte* codes) {
  __mmask32 masks[kChunks];
  __m512i low[kChunks], high[kChunks];
  for (uint32_t c = 0; c < kChunks; ++c) {
    masks[c] = kFull ? 0xffffffffu : LaneMask(c + 1 == kChunks ? last : kLanes);
    low[c] = _mm512_set1_epi16(-1);
    high[c] = _mm512_setzero_si512();
  }
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < kChunks; ++c) {
      const __m512i keys = OrderedKeys(LoadLanes(rows[t] + first + c * kLanes, masks[c]));
      low[c] = _mm512_min_epu16(low[c], keys);
      high[c] = _mm512_max_epu16(high[c], keys);
    }
  }
  Halves zero[kChunks], inverse[kChunks];
  for (uint32_t c = 0; c < kChunks; ++c) {
    const __m512i smallest = OrderedValues(low[c]);
    const __m512i largest = OrderedValues(high[c]);
    if (!AllCodable(smallest, largest)) return false;
    zero[c] = Widen(smallest);
    const Halves top = Widen(largest);
    const __m512i even = Scales(zero[c].even, top.even, levels, inverse[c].even);
    const __m512i odd = Scales(zero[c].odd, top.odd, levels, inverse[c].odd);
    const size_t at = (first + c * kLanes) * sizeof(uint16_t);
    _mm512_mask_storeu_epi16(zeros + at, masks[c], smallest);
    _mm512_mask_storeu_epi16(scales + at, masks[c], _mm512_or_si512(_mm512_srli_epi32(even, 16), odd));
  }
  codes += first * kBits / 8;
  for (uint32_t t = 0; t < tokens; ++t, codes += row_bytes) {
    if (ahead != 0) PrefetchRow(rows[t] + first + ahead, kChunks * kLanes);
    for (uint32_t c = 0; c < kChunks; ++c) {
      const Halves x = Widen(LoadLanes(rows[t] + first + c * kLanes, masks[c]));
      StoreCodes<kBits, kFull>(Codes(x.even, zero[c].even, inverse[c].even, levels),
                               Codes(x.odd, zero[c].odd, inverse[c].odd, levels),
                               codes + c * (kLanes * kBits / 8),
                               CodeMask(c + 1 == kChunks ? last : kLanes, kBits));
    }
  }
  return true;
}

template <uint32_t kBits, uint32_t kChunks, RowStore kStore>
KVPLANE_TARGET_AVX512 void DecodeBlock(const std::byte* zeros, const std::byte* scales,
                                       const std::byte* codes, uint32_t tokens, uint32_t first, uint32_t last,
                                       size_t row_bytes, uint16_t* const* rows) {
  constexpr bool kFull = kStore != RowStore::kMasked;
  Halves zero[kChunks], scale[kChunks];
  __mmask32 masks[kChunks];
  for (uint32_t c = 0; c < kChunks; ++c) {
    masks[c] = kFull ? 0xffffffffu : LaneMask(c + 1 == kChunks ? last : kLanes);
    const size_t at = (first + c * kLanes) * sizeof(uint16_t);
    zero[c] = Widen(LoadLanes(zeros + at, masks[c]));
    scale[c] = Widen(LoadLanes(scales + at, masks[c]));
  }
  codes += first * kBits / 8;
  for (uint32_t t = 0; t < tokens; ++t, codes += row_bytes) {
    for (uint32_t c = 0; c < kChunks; ++c) {
      __m512i even, odd;
      LoadCodes<kBits, kFull>(codes + c * (kLanes * kBits / 8),
                              CodeMask(c + 1 == kChunks ? last : kLanes, kBits), even, odd);
      StoreValues<kStore>(rows[t] + first + c * kLanes, masks[c], Values(even, odd, zero[c], scale[c]));
    }
  }
}

template <uint32_t kBits>
bool EncodeChannels(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t top,
                    size_t ahead, std::byte* zeros, std::byte* scales, std::byte* codes) {
  using Block = bool (*)(const uint16_t* const*, uint32_t, uint32_t, uint32_t, size_t, Levels, size_t,
                         std::byte*, std::byte*, std::byte*);
  constexpr Block kFullBlocks[] = {EncodeBlock<kBits, 1, true>, EncodeBlock<kBits, 2, true>,
                                   EncodeBlock<kBits, 3, true>, EncodeBlock<kBits, 4, true>};
  constexpr Block kCutBlocks[] = {EncodeBlock<kBits, 1, false>, EncodeBlock<kBits, 2, false>,
                                  EncodeBlock<kBits, 3, false>, EncodeBlock<kBits, 4, false>};
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  for (uint32_t first = 0; first < channels; first += kMaxChunks * kLanes) {
    const uint32_t width = std::min(channels - first, kMaxChunks * kLanes);
    const uint32_t chunks = (width + kLanes - 1) / kLanes;
    const uint32_t last = width - (chunks - 1) * kLanes;
    const Block block = (last == kLanes ? kFullBlocks : kCutBlocks)[chunks - 1];
    if (!block(rows, tokens, first, last, row_bytes, Levels(top), ahead, zeros, scales, codes)) return false;
  }
  return true;
}

template <uint32_t kBits>
void DecodeChannels(const std::byte* zeros, const std::byte* scales, const std::byte* codes, uint32_t tokens,
                    uint32_t channels, bool streaming_stores, uint16_t* const* rows) {
  using Block = void (*)(const std::byte*, const std::byte*, const std::byte*, uint32_t, uint32_t, uint32_t,
                         size_t, uint16_t* const*);
  using enum RowStore;
  constexpr Block kBlocks[][kMaxChunks] = {{DecodeBlock<kBits, 1, kMasked>, DecodeBlock<kBits, 2, kMasked>,
                                            DecodeBlock<kBits, 3, kMasked>, DecodeBlock<kBits, 4, kMasked>},
                                           {DecodeBlock<kBits, 1, kFull>, DecodeBlock<kBits, 2, kFull>,
                                            DecodeBlock<kBits, 3, kFull>, DecodeBlock<kBits, 4, kFull>},
                                           {DecodeBlock<kBits, 1, kStream>, DecodeBlock<kBits, 2, kStream>,
                                            DecodeBlock<kBits, 3, kStream>, DecodeBlock<kBits, 4, kStream>}};
  const bool stream = streaming_stores && RowsAligned(rows, tokens);
  const size_t row_bytes = PackedRowBytes(channels, kBits);
  for (uint32_t first = 0; first < channels; first += kMaxChunks * kLanes) {
    const uint32_t width = std::min(channels - first, kMaxChunks * kLanes);
    const uint32_t chunks = (width + kLanes - 1) / kLanes;
    const uint32_t last = width - (chunks - 1) * kLanes;
    const RowStore store = last != kLanes ? kMasked : stream ? kStream : kFull;
    kBlocks[static_cast<size_t>(store)][chunks - 1](zeros, scales, codes, tokens, first, last, row_bytes,
                                                    rows);
  }
  if (stream) _mm_sfence();
}

KVPLANE_TARGET_AVX512 bool ParamsValid(const std::byte* zeros, const std::byte* scales, size_t count,
                                       uint16_t scale_limit) {
  __m512i worst_zero = _mm512_setzero_si512();
  __m512i worst_scale = _mm512_setzero_si512();
  for (size_t i = 0; i < count; i += kLanes) {
    const __mmask32 mask = LaneMask(static_cast<uint32_t>(std::min<size_t>(kLanes, count - i)));
    const __m512i zero = LoadLanes(zeros + i * sizeof(uint16_t), mask);
    worst_zero = _mm512_max_epu16(worst_zero, _mm512_and_si512(zero, _mm512_set1_epi16(0x7fff)));
    worst_scale = _mm512_max_epu16(worst_scale, LoadLanes(scales + i * sizeof(uint16_t), mask));
  }
  return AllCodable(worst_zero, worst_zero) &&
         _mm512_cmpgt_epu16_mask(worst_scale, _mm512_set1_epi16(static_cast<short>(scale_limit))) == 0;
}

}  // namespace

const QuantizeKernels kQuantizeAvx512 = {
    {EncodeChannels<2>, EncodeChannels<4>, EncodeChannels<8>},
    {EncodeTokensAvx512<2>, EncodeTokensAvx512<4>, EncodeTokensAvx512<8>},
    {DecodeChannels<2>, DecodeChannels<4>, DecodeChannels<8>},
    {DecodeTokensAvx512<2>, DecodeTokensAvx512<4>, DecodeTokensAvx512<8>},
    EncodeTensorAvx512,
    ParamsValid,
};

}  // namespace kvplane::kernel::internal
