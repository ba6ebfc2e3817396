#include "kvplane/kernel/permute_bytes_avx2.h"
#include "kvplane/kernel/rans/rans_bytes.h"
#include "kvplane/kernel/rans/rans_classes_avx2.h"
#include "kvplane/kernel/rans/rans_driver.h"

namespace kvplane::kernel::internal {
namespace {

static_assert(kByteWindow == kRansByteWindow);

// --- Decoding ---

// The levels of a group, in the order of its lanes.
template <bool kGeneral>
KVPLANE_INLINE_AVX2 __m256i LevelBytes(const Pair& symbols, const Group& group, const std::byte* words) {
  const Pair levels = LevelsOf<kGeneral>(symbols, group, words);
  return _mm256_permute4x64_epi64(_mm256_packs_epi16(levels.low, levels.high), 0xd8);
}

// 16 elements from their levels.
KVPLANE_INLINE_AVX2 __m256i RowWords(__m128i levels, const float* step, const float* mean) {
  const __m256i low = HighBf16(_mm256_cvtepi8_epi32(levels), step, mean);
  const __m256i high =
      HighBf16(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(levels, levels)), step + kEight, mean + kEight);
  const __m256i words = _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16));
  return _mm256_permute4x64_epi64(words, 0xd8);
}

// Where the groups of a token lie in its row.
struct RowPlace {
  KVPLANE_INLINE_AVX2 void Next(const RansByteRows& layout) {
    offset += kRansLanes;
    channel += kRansLanes;
    if (channel == layout.head_dim) {
      channel = 0;
      offset += layout.head_stride - layout.head_dim;
    }
  }
  size_t offset = 0;
  uint32_t channel = 0;
};

// levels: of a window, in the order of its lanes; `first`: its first element, which lies at `place`.
KVPLANE_INLINE_AVX2 void ScaleWindow(const RansByteRows& layout, const uint8_t* levels, uint32_t first,
                                     RowPlace place, uint16_t* row) {
  __m256i ordered[kByteVectors];
  PermuteBytes(levels, layout.lane_of_element + first, ordered);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kByteVectors; ++i, place.Next(layout)) {
    const float* const step = layout.step + first + i * kRansLanes;
    const float* const mean = layout.mean + first + i * kRansLanes;
    StorePair(row + place.offset, {RowWords(_mm256_castsi256_si128(ordered[i]), step, mean),
                                   RowWords(_mm256_extracti128_si256(ordered[i], 1), step + 16, mean + 16)});
  }
}

template <uint32_t kWidth, bool kFast, bool kGeneral>
KVPLANE_INLINE_AVX2 void DecodeWindow(Decoder<kWidth>& decoder, const DecodeJob& job, uint32_t first_group,
                                      size_t& bypass_at, uint8_t (&levels)[kWidth][kRansByteWindow]) {
  for (uint32_t i = 0; i < kByteVectors; ++i) {
    const Group group = GroupOf(*job.shape, first_group + i);
    for (uint32_t v = 0; v < kWidth; ++v) {
      const Pair symbols = Pop<kFast, false>(decoder.x[v], decoder.cursor[v], group);
      _mm256_store_si256(reinterpret_cast<__m256i*>(levels[v]) + i,
                         LevelBytes<kGeneral>(symbols, group, job.bypass[v] + bypass_at));
    }
    bypass_at += group.rung.bypass() * sizeof(uint32_t);
  }
}

template <uint32_t kWidth, bool kGeneral>
KVPLANE_TARGET_AVX2 void DecodeLoop(DecodeJob& job) {
  const RansByteRows layout = *job.byte_rows;
  Decoder<kWidth> decoder(job);
  alignas(32) uint8_t levels[kWidth][kRansByteWindow];
  size_t bypass_at = 0;
  for (uint32_t t = 0; t < job.shape->tokens; ++t) {
    RowPlace place;
    for (uint32_t first = 0; first < job.shape->channels; first += kRansByteWindow) {
      if (decoder.Fast(kByteVectors)) {
        DecodeWindow<kWidth, true, kGeneral>(decoder, job, first / kRansLanes, bypass_at, levels);
      } else {
        DecodeWindow<kWidth, false, kGeneral>(decoder, job, first / kRansLanes, bypass_at, levels);
      }
      for (uint32_t v = 0; v < kWidth; ++v) ScaleWindow(layout, levels[v], first, place, job.rows[v][t]);
      for (uint32_t i = 0; i < kByteVectors; ++i) place.Next(layout);
    }
  }
  decoder.Finish(job);
}

// --- Encoding ---

template <uint32_t kWidth, bool kGeneral>
KVPLANE_TARGET_AVX2 void EncodeLoop(EncodeJob& job) {
  const RansShape& shape = *job.shape;
  const uint32_t groups = shape.groups();
  Encoder<kWidth> encoder(job);
  size_t bypass_at = RansBypassBytes(shape);
  for (uint32_t t = shape.tokens; t-- > 0;) {
    for (uint32_t g = groups; g-- > 0;) {
      const Group group = GroupOf(shape, g);
      const int lowest = group.rung.min_level();
      const int highest = group.rung.max_level();
      bypass_at -= group.rung.bypass() * sizeof(uint32_t);
      for (uint32_t v = 0; v < kWidth; ++v) {
        const auto* from =
            reinterpret_cast<const __m128i*>(job.bytes[v] + (size_t{t} * groups + g) * kRansLanes);
        const Pair raw = {_mm256_cvtepi8_epi16(_mm_loadu_si128(from)),
                          _mm256_cvtepi8_epi16(_mm_loadu_si128(from + 1))};
        const Pair levels = {Clamp(raw.low, lowest, highest), Clamp(raw.high, lowest, highest)};
        const Pair symbols = SymbolsOf<kGeneral>(levels, group, job.bypass[v] + bypass_at);
        Push<false, false>(encoder.x[v], encoder.at[v], symbols, group);
      }
    }
  }
  encoder.Finish(job);
}

struct Avx2ByteCore {
  static constexpr uint32_t kWidths[] = {4, 2, 1};

  template <uint32_t kWidth>
  static void EncodeLevels(EncodeJob& job) {
    if (HasBypass(*job.shape)) return EncodeLoop<kWidth, true>(job);
    EncodeLoop<kWidth, false>(job);
  }
  template <uint32_t kWidth>
  static void DecodeLevels(DecodeJob& job) {
    if (HasBypass(*job.shape)) return DecodeLoop<kWidth, true>(job);
    DecodeLoop<kWidth, false>(job);
  }
};

}  // namespace

// Stores are never streamed: at this pace they do not wait for memory.
const RansByteKernels kRansBytesAvx2 = {RansDriver<Avx2ByteCore>::EncodeBytes,
                                        RansDriver<Avx2ByteCore>::DecodeBytes};

}  // namespace kvplane::kernel::internal
