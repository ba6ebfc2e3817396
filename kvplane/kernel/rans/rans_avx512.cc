#include "kvplane/kernel/rans/rans_driver.h"
#include "kvplane/kernel/rans/rans_lanes_avx512.h"
#include "kvplane/kernel/rans/rans_picks_avx512.h"

// bf16 rows are widened into the even and the odd lanes as two vectors of 16 floats, which needs no
// permutation on either way; RansScale has that order.

namespace kvplane::kernel::internal {
namespace {

constexpr float kRoundingMagic = 0x1.8p23f;  // adding it rounds to nearest even and leaves the integer below

// What a step needs to know of its group besides the table.
struct Group {
  uint32_t bypass = 0;
  __mmask32 live = 0xffffffffu;
  int half_range = 0;
};
template <bool kGeneral>
KVPLANE_INLINE_AVX512 Group GroupOf(const RansShape& shape, uint32_t g) {
  const RansRung rung = shape.rungs[g];
  const int half_range = kRansClassTable[rung.rans_class()].half_range;
  if constexpr (kGeneral) return {rung.bypass(), LiveMask(LiveLanes(shape, g)), half_range};
  return {0, 0xffffffffu, half_range};
}

// --- Decoding ---

// Levels from symbols; `words` are the step's bypass words.
template <bool kGeneral>
KVPLANE_INLINE_AVX512 __m512i LevelsOf(__m512i symbols, const Group& group, const std::byte* words) {
  __m512i level = _mm512_sub_epi16(symbols, Words(group.half_range));
  if constexpr (kGeneral) {
    if (group.bypass != 0) {
      level = _mm512_sll_epi16(level, _mm_cvtsi32_si128(static_cast<int>(group.bypass)));
      for (uint32_t j = 0; j < group.bypass; ++j) {
        const __mmask32 plane = base::LoadLe<uint32_t>(words + j * sizeof(uint32_t));
        level = _mm512_mask_add_epi16(level, plane, level, Words(1 << j));
      }
      level = _mm512_sub_epi16(level, Words(1 << group.bypass >> 1));
    }
  }
  return level;
}

template <uint32_t kWidth, bool kFast, bool kGeneral>
KVPLANE_INLINE_AVX512 void DecodeTokenLevels(Decoder<kWidth>& decoder, const DecodeJob& job, size_t token,
                                             size_t& bypass_at) {
  const RansShape& shape = *job.shape;
  const uint32_t groups = shape.groups();
  for (uint32_t g = 0; g < groups; ++g) {
    const Group group = GroupOf<kGeneral>(shape, g);
    const DecodeTables tables = Load(kRansDecode[shape.rungs[g].rans_class()]);
    const size_t at = (token * groups + g) * kRansLanes;
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kWidth; ++v) {
      const __m512i symbols = Pop<kFast, kGeneral>(decoder.x[v], decoder.cursor[v], tables, group.live);
      __m512i levels = LevelsOf<kGeneral>(symbols, group, job.bypass[v] + bypass_at);
      if constexpr (kGeneral) levels = _mm512_maskz_mov_epi16(group.live, levels);
      _mm512_storeu_si512(job.levels[v] + at, levels);
    }
    if constexpr (kGeneral) bypass_at += group.bypass * sizeof(uint32_t);
  }
}

template <uint32_t kWidth, bool kGeneral>
KVPLANE_TARGET_AVX512 void DecodeLevelsLoop(DecodeJob& job) {
  const RansShape& shape = *job.shape;
  Decoder<kWidth> decoder(job);
  size_t bypass_at = 0;
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    if (decoder.Fast(shape.groups())) {
      DecodeTokenLevels<kWidth, true, kGeneral>(decoder, job, t, bypass_at);
    } else {
      DecodeTokenLevels<kWidth, false, kGeneral>(decoder, job, t, bypass_at);
    }
  }
  decoder.Finish(job);
}

// Where a decoded group goes: to its row, to its row around the caches, or to the lane row, from which the
// window before is permuted to the rows meanwhile: its stores then lie between the steps and cost little.
enum class Target { kRow, kStream, kWindow };

// Where the four groups of one window of elements lie in a row; walks over the windows.
struct WindowTarget {
  uint32_t window = 0;
  size_t at[kRansWindowGroups] = {};

  // The next window's groups, from the first on.
  void Advance(const RansRows& layout) {
    for (size_t& group : at) {
      group = next_;
      next_ += kRansLanes;
      channel_ += kRansLanes;
      if (channel_ == layout.head_dim) {
        channel_ = 0;
        next_ += layout.head_stride - layout.head_dim;
      }
    }
    window = advanced_++;
  }

 private:
  uint32_t advanced_ = 0;
  uint32_t channel_ = 0;
  size_t next_ = 0;
};

KVPLANE_INLINE_AVX512 void PickWindow(const RansRows& layout, const uint16_t* lanes,
                                      const WindowTarget& target, uint16_t* row) {
  const RansPick* picks = layout.order->element_picks + target.window * kRansWindowGroups;
  lanes += target.window * kRansWindow;
  const Window window = {_mm512_load_si512(lanes), _mm512_load_si512(lanes + 32),
                         _mm512_load_si512(lanes + 64), _mm512_load_si512(lanes + 96)};
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kRansWindowGroups; ++i) {
    const __m512i values = Permute(picks[i], window);
    uint16_t* const to = row + target.at[i];
    if (layout.streaming_stores && reinterpret_cast<uintptr_t>(to) % sizeof(__m512i) == 0) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), values);
    } else {
      _mm512_storeu_si512(to, values);
    }
  }
}

// rows: of the token, or of the lanes with kWindow, which goes on to `targets`.
template <uint32_t kWidth, bool kFast, bool kGeneral, Target kTarget>
KVPLANE_INLINE_AVX512 void DecodeTokenRows(Decoder<kWidth>& decoder, const DecodeJob& job,
                                           uint16_t* const (&rows)[kWidth],
                                           uint16_t* const (&targets)[kWidth], size_t& bypass_at) {
  const RansShape& shape = *job.shape;
  const __m512i interleave = InterleaveIndex();
  [[maybe_unused]] WindowTarget window;
  uint32_t g = 0;
  for (uint32_t h = 0; h < job.pieces.heads; ++h) {
    size_t at = h * job.pieces.head_stride;
    for (uint32_t i = 0; i < job.pieces.head_groups; ++i, ++g, at += kRansLanes) {
      const Group group = GroupOf<kGeneral>(shape, g);
      const DecodeTables tables = Load(kRansDecode[shape.rungs[g].rans_class()]);
      const RansScale& scale = job.layout->scales[g];
      const __m512 even_step = _mm512_load_ps(scale.step);
      const __m512 odd_step = _mm512_load_ps(scale.step + 16);
      const __m512 even_mean = _mm512_load_ps(scale.mean);
      const __m512 odd_mean = _mm512_load_ps(scale.mean + 16);
#pragma GCC unroll 8
      for (uint32_t v = 0; v < kWidth; ++v) {
        const __m512i symbols = Pop<kFast, kGeneral>(decoder.x[v], decoder.cursor[v], tables, group.live);
        const __m512i levels = LevelsOf<kGeneral>(symbols, group, job.bypass[v] + bypass_at);
        const __m512 even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(levels, 16), 16));
        const __m512 odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(levels, 16));
        const __m512i values = Bf16Words(_mm512_add_ps(_mm512_mul_ps(even, even_step), even_mean),
                                         _mm512_add_ps(_mm512_mul_ps(odd, odd_step), odd_mean), interleave);
        if constexpr (kTarget == Target::kStream) {
          _mm512_stream_si512(reinterpret_cast<__m512i*>(rows[v] + at), values);
        } else {
          // Rows with dead lanes are staged: scratch has room for them.
          _mm512_storeu_si512(rows[v] + at, values);
        }
      }
      if constexpr (kGeneral) bypass_at += group.bypass * sizeof(uint32_t);
      if constexpr (kTarget == Target::kWindow) {
        // One stream in four a step, so that stores and steps alternate.
        if (g < kRansWindowGroups) continue;
        if (g % kRansWindowGroups == 0) window.Advance(*job.layout);
        for (uint32_t v = g % kRansWindowGroups; v < kWidth; v += kRansWindowGroups) {
          PickWindow(*job.layout, rows[v], window, targets[v]);
        }
      }
    }
  }
  if constexpr (kTarget == Target::kWindow) {
    window.Advance(*job.layout);
    for (uint32_t v = 0; v < kWidth; ++v) PickWindow(*job.layout, rows[v], window, targets[v]);
  }
}

struct Avx512Core : RansPicksAvx512 {
  static constexpr uint32_t kWidths[] = {8, 4, 2, 1};

  template <uint32_t kWidth>
  static void EncodeLevels(EncodeJob& job);
  template <uint32_t kWidth>
  static bool EncodeRows(EncodeJob& job);

  template <uint32_t kWidth>
  static void DecodeLevels(DecodeJob& job) {
    if (General(*job.shape)) return DecodeLevelsLoop<kWidth, true>(job);
    DecodeLevelsLoop<kWidth, false>(job);
  }
  template <uint32_t kWidth>
  static void DecodeRows(DecodeJob& job);

  static bool General(const RansShape& shape) { return shape.channels % kRansLanes != 0 || HasBypass(shape); }
};

template <uint32_t kWidth, bool kGeneral, Target kTarget>
KVPLANE_TARGET_AVX512 void DecodeRowsLoop(DecodeJob& job) {
  const RansShape& shape = *job.shape;
  const RansRows& layout = *job.layout;
  const bool staged = RansNeedsScratch(layout);
  Decoder<kWidth> decoder(job);
  size_t bypass_at = 0;
  for (uint32_t t = 0; t < shape.tokens; ++t) {
    uint16_t* rows[kWidth];
    uint16_t* targets[kWidth];
    for (uint32_t v = 0; v < kWidth; ++v) {
      targets[v] = job.rows[v][t];
      rows[v] = staged ? LaneRow(layout, v) : targets[v];
    }
    if (decoder.Fast(shape.groups())) {
      DecodeTokenRows<kWidth, true, kGeneral, kTarget>(decoder, job, rows, targets, bypass_at);
    } else {
      DecodeTokenRows<kWidth, false, kGeneral, kTarget>(decoder, job, rows, targets, bypass_at);
    }
    if (!staged || kTarget == Target::kWindow) continue;
    for (uint32_t v = 0; v < kWidth; ++v) {
      uint16_t* const next = t + 1 < shape.tokens ? job.rows[v][t + 1] : nullptr;
      StageOut<Avx512Core>(layout, v, job.rows[v][t], next);
    }
  }
  if (layout.streaming_stores) _mm_sfence();
  decoder.Finish(job);
}

// Streaming stores need whole aligned vectors.
template <uint32_t kWidth>
bool MayStream(const DecodeJob& job) {
  const RansRows& layout = *job.layout;
  constexpr uintptr_t kVector = 64;
  if (!layout.streaming_stores || RansNeedsScratch(layout)) return false;
  if (layout.heads > 1 && layout.head_stride * sizeof(uint16_t) % kVector != 0) return false;
  uintptr_t misaligned = 0;
  for (uint32_t v = 0; v < kWidth; ++v) {
    for (uint32_t t = 0; t < job.shape->tokens; ++t) {
      misaligned |= reinterpret_cast<uintptr_t>(job.rows[v][t]) % kVector;
    }
  }
  return misaligned == 0;
}

template <uint32_t kWidth, Target kTarget>
void DecodeRowsTo(DecodeJob& job) {
  if (Avx512Core::General(*job.shape)) return DecodeRowsLoop<kWidth, true, kTarget>(job);
  DecodeRowsLoop<kWidth, false, kTarget>(job);
}

template <uint32_t kWidth>
void Avx512Core::DecodeRows(DecodeJob& job) {
  // The walk over the windows takes as many groups of lanes as of elements, each with its lane.
  const bool all_lanes = job.shape->channels == job.layout->elements();
  if (all_lanes && PicksRows(*job.layout)) return DecodeRowsTo<kWidth, Target::kWindow>(job);
  if (MayStream<kWidth>(job)) return DecodeRowsTo<kWidth, Target::kStream>(job);
  DecodeRowsTo<kWidth, Target::kRow>(job);
}

// --- Encoding ---

// Symbols of levels inside the rung's range; writes the step's bypass words.
template <bool kGeneral>
KVPLANE_INLINE_AVX512 __m512i SymbolsOf(__m512i levels, const Group& group, std::byte* words) {
  if constexpr (kGeneral) {
    if (group.bypass != 0) {
      levels = _mm512_add_epi16(levels, Words(1 << group.bypass >> 1));
      for (uint32_t j = 0; j < group.bypass; ++j) {
        const __mmask32 plane = _mm512_mask_test_epi16_mask(group.live, levels, Words(1 << j));
        base::StoreLe(words + j * sizeof(uint32_t), static_cast<uint32_t>(plane));
      }
      levels = _mm512_sra_epi16(levels, _mm_cvtsi32_si128(static_cast<int>(group.bypass)));
    }
  }
  return _mm512_add_epi16(levels, Words(group.half_range));
}

template <uint32_t kWidth, bool kGeneral>
KVPLANE_TARGET_AVX512 void EncodeLevelsLoop(EncodeJob& job) {
  const RansShape& shape = *job.shape;
  const uint32_t groups = shape.groups();
  Encoder<kWidth> encoder(job);
  size_t bypass_at = RansBypassBytes(shape);
  for (uint32_t t = shape.tokens; t-- > 0;) {
    for (uint32_t g = groups; g-- > 0;) {
      const Group group = GroupOf<kGeneral>(shape, g);
      const EncodeTables tables = Load(kRansEncode[shape.rungs[g].rans_class()]);
      const __m512i lowest = Words(shape.rungs[g].min_level());
      const __m512i highest = Words(shape.rungs[g].max_level());
      const size_t at = (size_t{t} * groups + g) * kRansLanes;
      if constexpr (kGeneral) bypass_at -= group.bypass * sizeof(uint32_t);
#pragma GCC unroll 8
      for (uint32_t v = 0; v < kWidth; ++v) {
        __m512i levels = kGeneral ? _mm512_maskz_loadu_epi16(group.live, job.levels[v] + at)
                                  : _mm512_loadu_si512(job.levels[v] + at);
        levels = _mm512_max_epi16(lowest, _mm512_min_epi16(highest, levels));
        const __m512i symbols = SymbolsOf<kGeneral>(levels, group, job.bypass[v] + bypass_at);
        Push<kGeneral, false>(encoder.x[v], encoder.at[v], symbols, tables, group.live);
      }
    }
  }
  encoder.Finish(job);
}

// The larger magnitude of the two, without sign.
KVPLANE_INLINE_AVX512 __m512 Larger(__m512 a, __m512 b) { return _mm512_range_ps(a, b, 0x0b); }

// Clamped to an integer limit and rounded; the level is in the low bits.
KVPLANE_INLINE_AVX512 __m512i RoundedLevels(__m512 scaled, __m512 limit) {
  // The smaller magnitude, with the sign of `scaled`.
  const __m512 clamped = _mm512_range_ps(scaled, limit, 0x02);
  return _mm512_castps_si512(_mm512_add_ps(clamped, _mm512_set1_ps(kRoundingMagic)));
}

// The cache lines of a row from the last to the first: the row that comes next is fetched one line a step,
// since a row's worth at once exceeds what a core has in flight.
struct LinesBackwards {
  explicit LinesBackwards(const RansRows& layout)
      : head((layout.heads - 1) * layout.head_stride), channel(layout.head_dim + kRansLanes - 1) {}

  void Advance(const RansRows& layout) {
    if (channel < kRansLanes) {
      if (head == 0) return;
      head -= layout.head_stride;
      channel = layout.head_dim + kRansLanes - 1;
    }
    channel = (channel - kRansLanes) / kRansLanes * kRansLanes;
    at = head + channel;
  }

  size_t at = 0;
  size_t head;
  uint32_t channel;
};

template <uint32_t kWidth, bool kGeneral, bool kTrack>
KVPLANE_INLINE_AVX512 void EncodeTokenRows(Encoder<kWidth>& encoder, const EncodeJob& job,
                                           const uint16_t* const (&rows)[kWidth],
                                           const uint16_t* const (&next)[kWidth], size_t& bypass_at,
                                           __m512i& magnitude) {
  const RansShape& shape = *job.shape;
  LinesBackwards lines(*job.layout);
  uint32_t g = shape.groups();
  for (uint32_t h = job.pieces.heads; h-- > 0;) {
    for (uint32_t i = job.pieces.head_groups; i-- > 0;) {
      --g;
      lines.Advance(*job.layout);
      const size_t at = h * job.pieces.head_stride + size_t{i} * kRansLanes;
      const Group group = GroupOf<kGeneral>(shape, g);
      const EncodeTables tables = Load(kRansEncode[shape.rungs[g].rans_class()]);
      const RansScale& scale = job.layout->scales[g];
      const __m512 even_inverse = _mm512_load_ps(scale.inverse_step);
      const __m512 odd_inverse = _mm512_load_ps(scale.inverse_step + 16);
      const __m512 even_mean = _mm512_load_ps(scale.mean);
      const __m512 odd_mean = _mm512_load_ps(scale.mean + 16);
      const __m512 limit = _mm512_set1_ps(static_cast<float>(-shape.rungs[g].min_level()));
      if constexpr (kGeneral) bypass_at -= group.bypass * sizeof(uint32_t);
      __m512 even_largest = _mm512_setzero_ps();
      __m512 odd_largest = even_largest;
#pragma GCC unroll 8
      for (uint32_t v = 0; v < kWidth; ++v) {
        const __m512i row =
            kGeneral ? _mm512_maskz_loadu_epi16(group.live, rows[v] + at) : _mm512_loadu_si512(rows[v] + at);
        magnitude = _mm512_max_epu16(magnitude, _mm512_and_si512(row, Words(0x7fff)));
        _mm_prefetch(next[v] + lines.at, _MM_HINT_T0);
        const __m512 even_row = _mm512_castsi512_ps(_mm512_slli_epi32(row, 16));
        const __m512 odd_row =
            _mm512_castsi512_ps(_mm512_and_si512(row, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
        const __m512 even_scaled = _mm512_mul_ps(_mm512_sub_ps(even_row, even_mean), even_inverse);
        const __m512 odd_scaled = _mm512_mul_ps(_mm512_sub_ps(odd_row, odd_mean), odd_inverse);
        if constexpr (kTrack) {
          even_largest = Larger(even_largest, even_scaled);
          odd_largest = Larger(odd_largest, odd_scaled);
        }
        const __m512i even = RoundedLevels(even_scaled, limit);
        const __m512i odd = RoundedLevels(odd_scaled, limit);
        __m512i levels = _mm512_mask_blend_epi16(0xaaaaaaaau, even, _mm512_slli_epi32(odd, 16));
        if constexpr (kGeneral) levels = _mm512_min_epi16(levels, Words(shape.rungs[g].max_level()));
        const __m512i symbols = SymbolsOf<kGeneral>(levels, group, job.bypass[v] + bypass_at);
        Push<kGeneral, false>(encoder.x[v], encoder.at[v], symbols, tables, group.live);
      }
      if constexpr (kTrack) {
        float* const largest = job.layout->largest + size_t{g} * kRansLanes;
        _mm512_storeu_ps(largest, Larger(_mm512_loadu_ps(largest), even_largest));
        _mm512_storeu_ps(largest + 16, Larger(_mm512_loadu_ps(largest + 16), odd_largest));
      }
    }
  }
}

template <uint32_t kWidth, bool kGeneral, bool kTrack>
KVPLANE_TARGET_AVX512 bool EncodeRowsLoop(EncodeJob& job) {
  const RansShape& shape = *job.shape;
  const RansRows& layout = *job.layout;
  const bool staged = RansNeedsScratch(layout);
  Encoder<kWidth> encoder(job);
  size_t bypass_at = RansBypassBytes(shape);
  __m512i magnitude = _mm512_setzero_si512();
  for (uint32_t t = shape.tokens; t-- > 0;) {
    const uint16_t* rows[kWidth];
    const uint16_t* next[kWidth];
    for (uint32_t v = 0; v < kWidth; ++v) {
      rows[v] = job.rows[v][t];
      next[v] = job.rows[v][t == 0 ? 0 : t - 1];
      if (staged) rows[v] = StageIn<Avx512Core>(shape, layout, v, rows[v], nullptr);
    }
    EncodeTokenRows<kWidth, kGeneral, kTrack>(encoder, job, rows, next, bypass_at, magnitude);
  }
  encoder.Finish(job);
  return _mm512_cmpge_epu16_mask(magnitude, Words(kRansMagnitudeLimit)) == 0;
}

template <uint32_t kWidth>
void Avx512Core::EncodeLevels(EncodeJob& job) {
  if (General(*job.shape)) return EncodeLevelsLoop<kWidth, true>(job);
  EncodeLevelsLoop<kWidth, false>(job);
}
template <uint32_t kWidth>
bool Avx512Core::EncodeRows(EncodeJob& job) {
  const bool general = General(*job.shape);
  if (job.layout->largest != nullptr) {
    return general ? EncodeRowsLoop<kWidth, true, true>(job) : EncodeRowsLoop<kWidth, false, true>(job);
  }
  return general ? EncodeRowsLoop<kWidth, true, false>(job) : EncodeRowsLoop<kWidth, false, false>(job);
}

}  // namespace

const RansKernels kRansAvx512 = {RansDriver<Avx512Core>::EncodeLevels, RansDriver<Avx512Core>::DecodeLevels,
                                 RansDriver<Avx512Core>::EncodeRows, RansDriver<Avx512Core>::DecodeRows};

}  // namespace kvplane::kernel::internal
