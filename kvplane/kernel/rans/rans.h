// rANS-B: the entropy coder of the codec family (docs/formats/rans.md is the normative specification).
//
// Range asymmetric numeral systems (Duda, "Asymmetric numeral systems", 2013) with 16-bit states, 7-bit
// probabilities and byte renormalisation: a class's whole table fits into vector registers, so coding needs
// neither gathers nor branches. One stream codes T tokens x C channels with 32 lanes. Lane = channel: a group
// is 32 channels of like statistics that share a class, a step is one group of one token, steps run
// token-major. Up to 8 streams of the same shape advance in lockstep, which fills the pipeline.
//
// Two forms, same bytes:
//   levels: int16 quantiser levels, [tokens, groups, 32], whatever made them (PCA, tests, debugging);
//   rows:   bf16 rows of pages, quantised on the way in and scaled on the way out, nothing staged.
//
// Arithmetic of the rows form, binary32, each operation rounded to nearest even on its own (no FMA):
//   level = clamp(RoundToEven((x - mean) * inverse_step)), value = Bf16(level * step + mean).
// Bf16() rounds to nearest even; a subnormal result becomes a zero of its sign. Every instruction set gives
// the same bytes and the same values.
//
// Errors. Encoding to rows reports streams that hold a value of magnitude 2^126 or more, an infinity or a
// NaN: the caller codes those raw. Decoding reports corrupt streams; it never reads outside the given bytes,
// but the rows of a corrupt stream hold garbage afterwards. Callers check the tile's CRC first; who needs all
// or nothing without one decodes to levels. A flipped bit is noticed in nearly all cases, not in all.
//
// Thread safety: pure functions over the caller's memory. No allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/kernel/isa.h"
#include "kvplane/kernel/rans/rans_class_tables.h"

namespace kvplane::kernel {

constexpr uint32_t kRansLanes = 32;
constexpr uint32_t kRansMaxStreams = 8;           // in one call; more would not fit the registers
constexpr uint32_t kRansMaxBypass = 4;            // low bits of a level that are stored as they are
constexpr size_t kRansStateBytes = 64;            // 32 initial states, little endian
constexpr uint16_t kRansMagnitudeLimit = 0x7e80;  // bf16 pattern of 2^126

// How one group of 32 channels is coded: a class of the ladder for the upper part of the level, `bypass` low
// bits as they are. The values are wire values.
struct RansRung {
  uint8_t code = 0;  // class | bypass << 5

  static constexpr RansRung Of(uint32_t rans_class, uint32_t bypass) {
    return {static_cast<uint8_t>(rans_class | bypass << 5)};
  }
  constexpr uint32_t rans_class() const { return code & 31u; }
  constexpr uint32_t bypass() const { return code >> 5; }
  constexpr bool valid() const { return rans_class() < kRansClasses && bypass() <= kRansMaxBypass; }

  // Levels that can be coded; others are clamped.
  constexpr int32_t max_level() const {
    const int32_t half_range = kRansClassTable[rans_class()].half_range;
    return (half_range << bypass()) + ((1 << bypass()) >> 1) - (bypass() == 0 ? 0 : 1);
  }
  constexpr int32_t min_level() const {
    const int32_t half_range = kRansClassTable[rans_class()].half_range;
    return -(half_range << bypass()) - ((1 << bypass()) >> 1);
  }
  bool operator==(const RansRung&) const = default;
};

// The recommended rung for data of standard deviation 0.25 * 2^(k / 4) steps, k in [0, kRansLadder): from
// k = 14 on, bypass bits cost less than the 7-bit tables of wide classes.
constexpr uint32_t kRansLadder = 33;
constexpr RansRung RansLadderRung(uint32_t k) {
  const uint32_t bypass = k < 14 ? 0 : (k - 10) / 4 < kRansMaxBypass ? (k - 10) / 4 : kRansMaxBypass;
  return RansRung::Of(k - 4 * bypass, bypass);
}

// Requires: tokens >= 1, channels >= 1, all rungs valid.
struct RansShape {
  uint32_t tokens = 0;
  uint32_t channels = 0;
  const RansRung* rungs = nullptr;  // [groups()]

  uint32_t groups() const { return (channels + kRansLanes - 1) / kRansLanes; }
  size_t steps() const { return size_t{tokens} * groups(); }
};

// Bytes of the bypass section, a function of the shape.
size_t RansBypassBytes(const RansShape& shape);
// What a stream of this shape needs at most, and the length an encoder's output buffer must have.
size_t RansMaxStreamBytes(const RansShape& shape);

// The fallback for streams that rANS does not make smaller (few tokens of few channels): symbols at fixed
// width, section 8 of the specification. Not fast, not meant to be. Rows go through a stream: what
// encode_rows() made is decoded to levels; what DecodeRansRaw() gives is encoded to a stream for
// decode_rows().
size_t RansRawBytes(const RansShape& shape);
// levels: [tokens, groups, 32], clamped; `out` gets RansRawBytes().
void EncodeRansRaw(const RansShape& shape, const int16_t* levels, std::byte* out);
// False when `in` is not what EncodeRansRaw() writes; `levels` are undefined then. Dead lanes are written as
// 0.
bool DecodeRansRaw(const RansShape& shape, std::span<const std::byte> in, int16_t* levels);

// Scale parameters of one group. Lanes are set and read through index(): even lanes lie before odd ones, as
// the vector code widens them.
// Requires: |mean| < 2^126, 0 <= step <= 2^117, 0 <= inverse_step, all finite.
struct alignas(64) RansScale {
  float inverse_step[kRansLanes] = {};
  float step[kRansLanes] = {};
  float mean[kRansLanes] = {};

  static constexpr uint32_t index(uint32_t lane) { return (lane & 1) * (kRansLanes / 2) + lane / 2; }
  void Set(uint32_t lane, float lane_step, float lane_inverse_step, float lane_mean) {
    step[index(lane)] = lane_step;
    inverse_step[index(lane)] = lane_inverse_step;
    mean[index(lane)] = lane_mean;
  }
};

// Stands for the lane of an element that is not coded; it decodes as RansRows::absent says.
constexpr uint32_t kRansNoLane = 0xffffffffu;

// Where 32 consecutive outputs of an order come from. Local ones are a few vector operations.
struct alignas(64) RansPick {
  uint16_t index[kRansLanes] = {};  // relative to base; 0 beyond the end
  uint32_t base = 0;
  uint32_t live = 0;   // bit i: output i has a source, else it is 0
  uint32_t upper = 0;  // bit i: index[i] >= 64
  bool local = false;  // all sources lie in [base, base + 128)
};

// A static channel order: lane i of the stream (group i / 32, lane i % 32) is element element_of_lane[i] of
// the token, counted as head * head_dim + channel. Arrays are the caller's and outlive the order.
struct RansOrder {
  const uint32_t* element_of_lane = nullptr;  // [channels], all different
  const uint32_t* lane_of_element = nullptr;  // [elements], the inverse; kRansNoLane
  const RansPick* lane_picks = nullptr;       // [groups], of element_of_lane
  const RansPick* element_picks = nullptr;    // [ceil(elements / 32)], of lane_of_element
  // All picks stay in their window (what BuildRansPicks() returned for both): rows whose heads are whole
  // groups are then permuted on their way, not copied first.
  bool windowed = false;
};
// False (and `inverse` undefined) unless the entries of `order` are different and below the size of
// `inverse`.
bool InvertRansOrder(std::span<const uint32_t> order, std::span<uint32_t> inverse);
// picks: [ceil(size / 32)]. Whether every source lies in the same aligned window of 128 as its output.
bool BuildRansPicks(std::span<const uint32_t> sources, RansPick* picks);

// How bf16 rows map to the lanes of a stream. Requires: elements() == channels of the shape, or an order of
// as many elements.
struct RansRows {
  const RansScale* scales = nullptr;  // [groups]
  uint32_t heads = 0;
  uint32_t head_dim = 0;
  size_t head_stride = 0;            // elements
  const RansOrder* order = nullptr;  // null: lane i is element i
  // RansScratchBytes() when RansNeedsScratch(), 64-byte aligned; else unused.
  std::byte* scratch = nullptr;
  // Decoding: write around the caches where rows are 64-byte aligned. Pays when the rows exceed the caches.
  bool streaming_stores = false;
  // Decoding: [elements] bf16, what elements without a lane become; null: 0.
  const uint16_t* absent = nullptr;
  // Encoding: [groups][32], in RansScale's order, or null. Gets the larger of what it held and the largest
  // magnitude of (x - mean) * inverse_step: what was clamped and by how much.
  float* largest = nullptr;

  uint32_t elements() const { return heads * head_dim; }  // of a token
};
inline bool RansNeedsScratch(const RansRows& rows) {
  return rows.order != nullptr || rows.head_dim % kRansLanes != 0;
}
size_t RansScratchBytes(uint32_t elements);

// `streams` in [1, kRansMaxStreams]; all share the shape. Results are bit masks: bit v for stream v.
struct RansKernels {
  // levels[v]: [tokens, groups, 32]; dead lanes of the last group are ignored. Stream v is written so that
  // it ends at ends[v] and has sizes[v] bytes; RansMaxStreamBytes() before ends[v] are overwritten.
  void (*encode_levels)(const RansShape& shape, uint32_t streams, const int16_t* const* levels,
                        std::byte* const* ends, size_t* sizes);
  // Returns the corrupt streams. Dead lanes are written as 0.
  uint32_t (*decode_levels)(const RansShape& shape, uint32_t streams, const std::span<const std::byte>* in,
                            int16_t* const* levels);

  // rows[v][t]: head 0 of token t of stream v. Returns the streams that cannot be coded (sizes undefined).
  uint32_t (*encode_rows)(const RansShape& shape, const RansRows& layout, uint32_t streams,
                          const uint16_t* const* const* rows, std::byte* const* ends, size_t* sizes);
  // Returns the corrupt streams, whose rows hold garbage.
  uint32_t (*decode_rows)(const RansShape& shape, const RansRows& layout, uint32_t streams,
                          const std::span<const std::byte>* in, uint16_t* const* const* rows);
};

const RansKernels& Rans(Isa isa);  // requires: `isa` is available
const RansKernels& Rans();         // the active one

}  // namespace kvplane::kernel
