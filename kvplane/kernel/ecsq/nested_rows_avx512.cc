// Eight tokens at a time, group by group: what a group needs stays in registers over the tokens.
#include <immintrin.h>

#include <algorithm>

#include "kvplane/kernel/ecsq/nested_rows.h"
#include "kvplane/kernel/rans/rans_picks_avx512.h"

namespace kvplane::kernel::internal {
namespace {

constexpr uint32_t kTokenBlock = kRansMaxStreams;  // scratch has a lane row for each

// Where the groups of a row lie; walks over them.
class GroupWalk {
 public:
  explicit GroupWalk(const RowPieces& pieces) : pieces_(pieces) {}
  size_t at() const { return at_; }
  void Next() {
    at_ += kRansLanes;
    if (++in_piece_ == pieces_.head_groups) {
      in_piece_ = 0;
      piece_ += pieces_.head_stride;
      at_ = piece_;
    }
  }

 private:
  RowPieces pieces_;
  uint32_t in_piece_ = 0;
  size_t piece_ = 0;
  size_t at_ = 0;
};

KVPLANE_INLINE_AVX512 __m512 Clamped(__m512 x, __m512 lowest, __m512 highest) {
  return _mm512_min_ps(_mm512_max_ps(x, lowest), highest);
}
// floor((level + 1) / 3): shifted to be positive, then times 2^17 / 3 rounded up, which is exact for words.
KVPLANE_INLINE_AVX512 __m512i ParentsOf(__m512i levels) {
  constexpr int kOffset = 30000;
  const __m512i shifted = _mm512_add_epi16(levels, Words(kOffset + 1));
  const __m512i third = _mm512_srli_epi16(_mm512_mulhi_epu16(shifted, Words(43691)), 1);
  return _mm512_sub_epi16(third, Words(kOffset / 3));
}

// One group of a block of rows to levels. Returns the largest magnitudes.
struct GroupToLevels {
  const RansScale& scale;
  float* largest;
  __mmask32 live;
  float lowest, highest;
};
KVPLANE_INLINE_AVX512 __m512i LevelsOfGroup(const GroupToLevels& group, uint32_t layers,
                                            const uint16_t* const* rows, uint32_t count, size_t row_at,
                                            int16_t* const* levels, size_t at, size_t token_step) {
  const __m512 even_mean = _mm512_load_ps(group.scale.mean);
  const __m512 odd_mean = _mm512_load_ps(group.scale.mean + 16);
  const __m512 even_inverse = _mm512_load_ps(group.scale.inverse_step);
  const __m512 odd_inverse = _mm512_load_ps(group.scale.inverse_step + 16);
  const __m512 lowest = _mm512_set1_ps(group.lowest);
  const __m512 highest = _mm512_set1_ps(group.highest);
  __m512 even_largest = _mm512_setzero_ps();
  __m512 odd_largest = _mm512_setzero_ps();
  __m512i magnitude = _mm512_setzero_si512();
  for (uint32_t i = 0; i < count; ++i, at += token_step) {
    const __m512i words = _mm512_maskz_loadu_epi16(group.live, rows[i] + row_at);
    magnitude = _mm512_max_epu16(magnitude, _mm512_and_si512(words, Words(0x7fff)));
    const __m512i odd_bits = _mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
    const __m512 even = _mm512_mul_ps(
        _mm512_sub_ps(_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), even_mean), even_inverse);
    const __m512 odd = _mm512_mul_ps(_mm512_sub_ps(_mm512_castsi512_ps(odd_bits), odd_mean), odd_inverse);
    even_largest = _mm512_max_ps(even_largest, _mm512_abs_ps(even));
    odd_largest = _mm512_max_ps(odd_largest, _mm512_abs_ps(odd));
    const __m512i even_level = _mm512_cvtps_epi32(Clamped(even, lowest, highest));
    const __m512i odd_level = _mm512_cvtps_epi32(Clamped(odd, lowest, highest));
    const __m512i both = _mm512_mask_mov_epi16(even_level, 0xaaaaaaaau, _mm512_slli_epi32(odd_level, 16));
    __m512i level = _mm512_maskz_mov_epi16(group.live, both);
    _mm512_storeu_si512(levels[layers] + at, level);
    for (uint32_t s = layers; s > 0; --s) {
      level = ParentsOf(level);
      _mm512_storeu_si512(levels[s - 1] + at, level);
    }
  }
  // Dead lanes have a mean and a step of 0, and so no magnitude.
  float* const largest = group.largest;
  _mm512_storeu_ps(largest, _mm512_max_ps(_mm512_loadu_ps(largest), even_largest));
  _mm512_storeu_ps(largest + 16, _mm512_max_ps(_mm512_loadu_ps(largest + 16), odd_largest));
  return magnitude;
}

KVPLANE_TARGET_AVX512 bool ToLevels(const RansShape& shape, const RansRows& layout, uint32_t layers,
                                    const uint16_t* const* rows, int16_t* const* levels) {
  const RowPieces pieces = PiecesOf(shape, layout);
  const bool staged = RansNeedsScratch(layout);
  const int32_t unit = kPowerOfThree[layers];
  const uint32_t groups = shape.groups();
  const size_t token_step = size_t{groups} * kRansLanes;
  __m512i magnitude = _mm512_setzero_si512();
  for (uint32_t first = 0; first < shape.tokens; first += kTokenBlock) {
    const uint32_t count = std::min(kTokenBlock, shape.tokens - first);
    const uint16_t* block[kTokenBlock];
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t t = first + i;
      block[i] = rows[t];
      const uint16_t* const next = t + 1 < shape.tokens ? rows[t + 1] : nullptr;
      if (staged) block[i] = StageIn<RansPicksAvx512>(shape, layout, i, rows[t], next);
    }
    GroupWalk walk(pieces);
    for (uint32_t g = 0; g < groups; ++g, walk.Next()) {
      const GroupToLevels group = {layout.scales[g], layout.largest + size_t{g} * kRansLanes,
                                   LiveMask(LiveLanes(shape, g)),
                                   static_cast<float>(shape.rungs[g].min_level() * unit - unit / 2),
                                   static_cast<float>(shape.rungs[g].max_level() * unit + unit / 2)};
      const size_t at = first * token_step + size_t{g} * kRansLanes;
      magnitude = _mm512_max_epu16(
          magnitude, LevelsOfGroup(group, layers, block, count, walk.at(), levels, at, token_step));
    }
    if (_mm512_cmpge_epu16_mask(magnitude, Words(kRansMagnitudeLimit)) != 0) return false;
  }
  return true;
}

// How a block of rows is written.
enum class RowStore { kRow, kStream };

template <RowStore kStore>
KVPLANE_INLINE_AVX512 void ValuesOfGroup(const RansScale& scale, uint32_t missing, const int16_t* levels,
                                         size_t token_step, uint32_t count, size_t row_at,
                                         uint16_t* const* rows) {
  const __m512 even_step = _mm512_load_ps(scale.step);
  const __m512 odd_step = _mm512_load_ps(scale.step + 16);
  const __m512 even_mean = _mm512_load_ps(scale.mean);
  const __m512 odd_mean = _mm512_load_ps(scale.mean + 16);
  const __m512i unit = Words(kPowerOfThree[missing]);
  const __m512i interleave = InterleaveIndex();
  for (uint32_t i = 0; i < count; ++i, levels += token_step) {
    const __m512i level = _mm512_mullo_epi16(_mm512_loadu_si512(levels), unit);
    const __m512 even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(level, 16), 16));
    const __m512 odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(level, 16));
    const __m512i values = Bf16Words(_mm512_add_ps(_mm512_mul_ps(even, even_step), even_mean),
                                     _mm512_add_ps(_mm512_mul_ps(odd, odd_step), odd_mean), interleave);
    if constexpr (kStore == RowStore::kStream) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(rows[i] + row_at), values);
    } else {
      _mm512_storeu_si512(rows[i] + row_at, values);  // rows with dead lanes are staged: there is room
    }
  }
}

template <RowStore kStore>
KVPLANE_TARGET_AVX512 void ValuesOfBlock(const RansShape& shape, const RansRows& layout, uint32_t missing,
                                         const int16_t* levels, uint32_t count, uint16_t* const* rows) {
  GroupWalk walk(PiecesOf(shape, layout));
  const size_t token_step = size_t{shape.groups()} * kRansLanes;
  for (uint32_t g = 0; g < shape.groups(); ++g, walk.Next()) {
    ValuesOfGroup<kStore>(layout.scales[g], missing, levels + size_t{g} * kRansLanes, token_step, count,
                          walk.at(), rows);
  }
}

// Streaming stores need whole aligned vectors.
bool MayStream(const RansShape& shape, const RansRows& layout, uint16_t* const* rows) {
  constexpr uintptr_t kVector = 64;
  if (!layout.streaming_stores || RansNeedsScratch(layout)) return false;
  uintptr_t misaligned = layout.heads > 1 ? layout.head_stride * sizeof(uint16_t) % kVector : 0;
  for (uint32_t t = 0; t < shape.tokens; ++t) misaligned |= reinterpret_cast<uintptr_t>(rows[t]) % kVector;
  return misaligned == 0;
}

KVPLANE_TARGET_AVX512 void FromLevels(const RansShape& shape, const RansRows& layout, uint32_t missing,
                                      const int16_t* levels, uint16_t* const* rows) {
  const bool staged = RansNeedsScratch(layout);
  const bool stream = MayStream(shape, layout, rows);
  const size_t token_step = size_t{shape.groups()} * kRansLanes;
  for (uint32_t first = 0; first < shape.tokens; first += kTokenBlock) {
    const uint32_t count = std::min(kTokenBlock, shape.tokens - first);
    uint16_t* block[kTokenBlock];
    for (uint32_t i = 0; i < count; ++i) block[i] = staged ? LaneRow(layout, i) : rows[first + i];
    const int16_t* const from = levels + first * token_step;
    if (stream) {
      ValuesOfBlock<RowStore::kStream>(shape, layout, missing, from, count, block);
    } else {
      ValuesOfBlock<RowStore::kRow>(shape, layout, missing, from, count, block);
    }
    if (!staged) continue;
    for (uint32_t t = first; t < first + count; ++t) {
      uint16_t* const next = t + 1 < shape.tokens ? rows[t + 1] : nullptr;
      StageOut<RansPicksAvx512>(layout, t - first, rows[t], next);
    }
  }
  if (layout.streaming_stores) _mm_sfence();
}

}  // namespace

const NestedRowKernels kNestedRowsAvx512 = {ToLevels, FromLevels};

}  // namespace kvplane::kernel::internal
