#include "kvplane/kernel/rans/rans_classes_avx2.h"
#include "kvplane/kernel/rans/rans_driver.h"

namespace kvplane::kernel::internal {
namespace {

constexpr float kRoundingMagic = 0x1.8p23f;  // adding it rounds to nearest even and leaves the integer below

// --- Decoding ---

template <uint32_t kWidth, bool kFast, bool kGeneral>
KVPLANE_INLINE_AVX2 void DecodeTokenLevels(Decoder<kWidth>& decoder, const DecodeJob& job, size_t token,
                                           size_t& bypass_at) {
  const uint32_t groups = job.shape->groups();
  for (uint32_t g = 0; g < groups; ++g) {
    const Group group = GroupOf(*job.shape, g);
    for (uint32_t v = 0; v < kWidth; ++v) {
      const Pair symbols = Pop<kFast, kGeneral>(decoder.x[v], decoder.cursor[v], group);
      Pair levels = LevelsOf<kGeneral>(symbols, group, job.bypass[v] + bypass_at);
      if constexpr (kGeneral) {
        const Pair live = LaneMasks(group.live);
        levels = {_mm256_and_si256(levels.low, live.low), _mm256_and_si256(levels.high, live.high)};
      }
      StorePair(job.levels[v] + (token * groups + g) * kRansLanes, levels);
    }
    bypass_at += group.rung.bypass() * sizeof(uint32_t);
  }
}

template <uint32_t kWidth, bool kGeneral>
KVPLANE_TARGET_AVX2 void DecodeLevelsLoop(DecodeJob& job) {
  Decoder<kWidth> decoder(job);
  size_t bypass_at = 0;
  for (uint32_t t = 0; t < job.shape->tokens; ++t) {
    if (decoder.Fast(job.shape->groups())) {
      DecodeTokenLevels<kWidth, true, kGeneral>(decoder, job, t, bypass_at);
    } else {
      DecodeTokenLevels<kWidth, false, kGeneral>(decoder, job, t, bypass_at);
    }
  }
  decoder.Finish(job);
}

// 16 lanes; `step` and `mean` point at their even lanes, the odd ones lie 16 floats on.
KVPLANE_INLINE_AVX2 __m256i Bf16Words(__m256i levels, const float* step, const float* mean) {
  const __m256i even = HighBf16(_mm256_srai_epi32(_mm256_slli_epi32(levels, 16), 16), step, mean);
  const __m256i odd = HighBf16(_mm256_srai_epi32(levels, 16), step + 16, mean + 16);
  return _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa);
}

template <uint32_t kWidth, bool kFast, bool kGeneral>
KVPLANE_INLINE_AVX2 void DecodeTokenRows(Decoder<kWidth>& decoder, const DecodeJob& job,
                                         uint16_t* const (&rows)[kWidth], size_t& bypass_at) {
  uint32_t g = 0;
  for (uint32_t h = 0; h < job.pieces.heads; ++h) {
    size_t at = h * job.pieces.head_stride;
    for (uint32_t i = 0; i < job.pieces.head_groups; ++i, ++g, at += kRansLanes) {
      const Group group = GroupOf(*job.shape, g);
      const RansScale& scale = job.layout->scales[g];
      for (uint32_t v = 0; v < kWidth; ++v) {
        const Pair symbols = Pop<kFast, kGeneral>(decoder.x[v], decoder.cursor[v], group);
        const Pair levels = LevelsOf<kGeneral>(symbols, group, job.bypass[v] + bypass_at);
        // Rows with dead lanes are staged: scratch has room for them.
        StorePair(rows[v] + at, {Bf16Words(levels.low, scale.step, scale.mean),
                                 Bf16Words(levels.high, scale.step + kEight, scale.mean + kEight)});
      }
      bypass_at += group.rung.bypass() * sizeof(uint32_t);
    }
  }
}

// --- Encoding ---

template <uint32_t kWidth, bool kGeneral>
KVPLANE_TARGET_AVX2 void EncodeLevelsLoop(EncodeJob& job) {
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
        const Pair raw = LoadPair(job.levels[v] + (size_t{t} * groups + g) * kRansLanes);
        const Pair levels = {Clamp(raw.low, lowest, highest), Clamp(raw.high, lowest, highest)};
        const Pair symbols = SymbolsOf<kGeneral>(levels, group, job.bypass[v] + bypass_at);
        Push<kGeneral, false>(encoder.x[v], encoder.at[v], symbols, group);
      }
    }
  }
  encoder.Finish(job);
}

// The rounded level in the low bits; `mean` and `inverse_step` of these 8 lanes.
KVPLANE_INLINE_AVX2 __m256i RoundedLevels(__m256i row, const float* mean, const float* inverse_step,
                                          __m256 lowest, __m256 highest, float* largest) {
  const __m256 centred = _mm256_sub_ps(_mm256_castsi256_ps(row), _mm256_load_ps(mean));
  const __m256 scaled = _mm256_mul_ps(centred, _mm256_load_ps(inverse_step));
  if (largest != nullptr) {
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), scaled);
    _mm256_store_ps(largest, _mm256_max_ps(_mm256_load_ps(largest), magnitude));
  }
  const __m256 clamped = _mm256_min_ps(_mm256_max_ps(scaled, lowest), highest);
  return _mm256_castps_si256(_mm256_add_ps(clamped, _mm256_set1_ps(kRoundingMagic)));
}
KVPLANE_INLINE_AVX2 __m256i LevelWords(__m256i row, const RansScale& scale, uint32_t first, __m256 lowest,
                                       __m256 highest, float* largest) {
  if (largest != nullptr) largest += first;
  const __m256i even = RoundedLevels(_mm256_slli_epi32(row, 16), scale.mean + first,
                                     scale.inverse_step + first, lowest, highest, largest);
  const __m256i high_halves = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  if (largest != nullptr) largest += 16;
  const __m256i odd = RoundedLevels(_mm256_and_si256(row, high_halves), scale.mean + 16 + first,
                                    scale.inverse_step + 16 + first, lowest, highest, largest);
  return _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa);
}

template <uint32_t kWidth, bool kGeneral>
KVPLANE_INLINE_AVX2 void EncodeTokenRows(Encoder<kWidth>& encoder, const EncodeJob& job,
                                         const uint16_t* const (&rows)[kWidth], size_t& bypass_at,
                                         __m256i& magnitude) {
  uint32_t g = job.shape->groups();
  for (uint32_t h = job.pieces.heads; h-- > 0;) {
    for (uint32_t i = job.pieces.head_groups; i-- > 0;) {
      --g;
      const size_t at = h * job.pieces.head_stride + size_t{i} * kRansLanes;
      const Group group = GroupOf(*job.shape, g);
      const RansScale& scale = job.layout->scales[g];
      const __m256 lowest = _mm256_set1_ps(static_cast<float>(group.rung.min_level()));
      const __m256 highest = _mm256_set1_ps(static_cast<float>(group.rung.max_level()));
      float* const largest = job.layout->largest == nullptr ? nullptr : job.layout->largest + g * kRansLanes;
      bypass_at -= group.rung.bypass() * sizeof(uint32_t);
      for (uint32_t v = 0; v < kWidth; ++v) {
        Pair row = LoadPair(rows[v] + at);
        if constexpr (kGeneral) {
          const Pair live = LaneMasks(group.live);
          row = {_mm256_and_si256(row.low, live.low), _mm256_and_si256(row.high, live.high)};
        }
        const __m256i positive = Words(0x7fff);
        magnitude = _mm256_max_epu16(magnitude, _mm256_max_epu16(_mm256_and_si256(row.low, positive),
                                                                 _mm256_and_si256(row.high, positive)));
        const Pair levels = {LevelWords(row.low, scale, 0, lowest, highest, largest),
                             LevelWords(row.high, scale, kEight, lowest, highest, largest)};
        const Pair symbols = SymbolsOf<kGeneral>(levels, group, job.bypass[v] + bypass_at);
        Push<kGeneral, false>(encoder.x[v], encoder.at[v], symbols, group);
      }
    }
  }
}

struct Avx2Core {
  static constexpr uint32_t kWidths[] = {4, 2, 1};
  static constexpr bool kPicksRows = false;

  static bool General(const RansShape& shape) { return shape.channels % kRansLanes != 0 || HasBypass(shape); }

  static void Pick(const RansPick*, const uint32_t* sources, uint32_t count, const uint16_t* absent,
                   const uint16_t* from, uint16_t* to) {
    PickOne(sources, count, absent, from, to);
  }
  static void Copy(const uint16_t* from, uint32_t count, bool /*streaming*/, uint16_t* to) {
    std::memcpy(to, from, count * sizeof(uint16_t));
  }

  template <uint32_t kWidth>
  static void EncodeLevels(EncodeJob& job) {
    if (General(*job.shape)) return EncodeLevelsLoop<kWidth, true>(job);
    EncodeLevelsLoop<kWidth, false>(job);
  }
  template <uint32_t kWidth>
  static void DecodeLevels(DecodeJob& job) {
    if (General(*job.shape)) return DecodeLevelsLoop<kWidth, true>(job);
    DecodeLevelsLoop<kWidth, false>(job);
  }
  template <uint32_t kWidth>
  static bool EncodeRows(EncodeJob& job) {
    return General(*job.shape) ? EncodeRowsLoop<kWidth, true>(job) : EncodeRowsLoop<kWidth, false>(job);
  }
  template <uint32_t kWidth>
  static void DecodeRows(DecodeJob& job) {
    if (General(*job.shape)) return DecodeRowsLoop<kWidth, true>(job);
    DecodeRowsLoop<kWidth, false>(job);
  }

 private:
  template <uint32_t kWidth, bool kGeneral>
  KVPLANE_TARGET_AVX2 static bool EncodeRowsLoop(EncodeJob& job) {
    const RansShape& shape = *job.shape;
    const bool staged = RansNeedsScratch(*job.layout);
    Encoder<kWidth> encoder(job);
    size_t bypass_at = RansBypassBytes(shape);
    __m256i magnitude = _mm256_setzero_si256();
    for (uint32_t t = shape.tokens; t-- > 0;) {
      const uint16_t* rows[kWidth];
      for (uint32_t v = 0; v < kWidth; ++v) {
        rows[v] = job.rows[v][t];
        if (!staged) continue;
        rows[v] = StageIn<Avx2Core>(shape, *job.layout, v, rows[v], t == 0 ? nullptr : job.rows[v][t - 1]);
      }
      EncodeTokenRows<kWidth, kGeneral>(encoder, job, rows, bypass_at, magnitude);
    }
    encoder.Finish(job);
    const __m256i over = AtLeast(magnitude, Words(kRansMagnitudeLimit));
    return _mm256_testz_si256(over, over) != 0;
  }

  template <uint32_t kWidth, bool kGeneral>
  KVPLANE_TARGET_AVX2 static void DecodeRowsLoop(DecodeJob& job) {
    const RansShape& shape = *job.shape;
    const bool staged = RansNeedsScratch(*job.layout);
    Decoder<kWidth> decoder(job);
    size_t bypass_at = 0;
    for (uint32_t t = 0; t < shape.tokens; ++t) {
      uint16_t* rows[kWidth];
      for (uint32_t v = 0; v < kWidth; ++v) {
        rows[v] = staged ? LaneRow(*job.layout, v) : job.rows[v][t];
      }
      if (decoder.Fast(shape.groups())) {
        DecodeTokenRows<kWidth, true, kGeneral>(decoder, job, rows, bypass_at);
      } else {
        DecodeTokenRows<kWidth, false, kGeneral>(decoder, job, rows, bypass_at);
      }
      if (!staged) continue;
      for (uint32_t v = 0; v < kWidth; ++v) {
        uint16_t* const next = t + 1 < shape.tokens ? job.rows[v][t + 1] : nullptr;
        StageOut<Avx2Core>(*job.layout, v, job.rows[v][t], next);
      }
    }
    decoder.Finish(job);
  }
};

}  // namespace

const RansKernels kRansAvx2 = {RansDriver<Avx2Core>::EncodeLevels, RansDriver<Avx2Core>::DecodeLevels,
                               RansDriver<Avx2Core>::EncodeRows, RansDriver<Avx2Core>::DecodeRows};

}  // namespace kvplane::kernel::internal
