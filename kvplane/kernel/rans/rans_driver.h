// Internal: what all instruction sets share around their inner loops: checking stream lengths, splitting the
// streams of a call into lockstep widths, finding the rows of a token.
//
// A core has, for W in its kWidths (descending, ending in 1):
//   template <uint32_t W> static void EncodeLevels(EncodeJob&);   template <uint32_t W> static void
//   DecodeLevels(DecodeJob&); template <uint32_t W> static bool EncodeRows(EncodeJob&);     template
//   <uint32_t W> static void DecodeRows(DecodeJob&);
// or only the first two, on jobs with bytes for levels.
// Jobs hold W streams at their front.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/kernel/rans/rans_bytes.h"
#include "kvplane/kernel/rans/rans_tables.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel::internal {

extern const RansKernels kRansScalar;
extern const RansKernels kRansAvx2;
extern const RansKernels kRansAvx512;
extern const RansByteKernels kRansBytesAvx2;
extern const RansByteKernels kRansBytesAvx512;

// The groups of one token as memory runs: `heads` pieces, `head_stride` elements apart, of `head_groups`
// groups each. Staged rows are one piece in scratch.
struct RowPieces {
  uint32_t heads = 1;
  uint32_t head_groups = 0;
  size_t head_stride = 0;
};

struct EncodeJob {
  const RansShape* shape = nullptr;
  const RansRows* layout = nullptr;
  RowPieces pieces;
  const int16_t* levels[kRansMaxStreams] = {};
  const int8_t* bytes[kRansMaxStreams] = {};
  const uint16_t* const* rows[kRansMaxStreams] = {};
  std::byte* bypass[kRansMaxStreams] = {};  // the section's first byte
  std::byte* at[kRansMaxStreams] = {};      // in: end of the code bytes; out: first byte of the stream
};

struct DecodeJob {
  const RansShape* shape = nullptr;
  const RansRows* layout = nullptr;
  RowPieces pieces;
  const std::byte* states[kRansMaxStreams] = {};
  const std::byte* at[kRansMaxStreams] = {};      // code bytes
  const std::byte* end[kRansMaxStreams] = {};     // of the code bytes
  const std::byte* bypass[kRansMaxStreams] = {};  // the section's first byte
  int16_t* levels[kRansMaxStreams] = {};
  const RansByteRows* byte_rows = nullptr;
  uint16_t* const* rows[kRansMaxStreams] = {};
  bool corrupt[kRansMaxStreams] = {};  // out
};

// Where a vector decoder finds the 32 states that stream v starts from.
inline const void* StatesOf(const DecodeJob& job, uint32_t v) { return job.states[v]; }

inline uint32_t LiveLanes(const RansShape& shape, uint32_t group) {
  return std::min(kRansLanes, shape.channels - group * kRansLanes);
}
inline uint32_t LiveMask(uint32_t lanes) { return lanes >= kRansLanes ? 0xffffffffu : (1u << lanes) - 1; }

inline bool HasBypass(const RansShape& shape) {
  for (uint32_t g = 0; g < shape.groups(); ++g) {
    if (shape.rungs[g].bypass() != 0) return true;
  }
  return false;
}

inline RowPieces PiecesOf(const RansShape& shape, const RansRows& layout) {
  if (RansNeedsScratch(layout)) return {1, shape.groups(), 0};
  return {layout.heads, layout.head_dim / kRansLanes, layout.head_stride};
}

// Scratch of staged rows: per stream one row in lane order, then one row in element order, each padded so
// that a pick may read 128 elements from any base.
constexpr size_t PaddedRow(uint32_t elements) {
  return (size_t{elements} + kRansLanes - 1) / kRansLanes * kRansLanes + 128;
}
inline uint16_t* LaneRow(const RansRows& layout, uint32_t stream) {
  return reinterpret_cast<uint16_t*>(layout.scratch) + stream * PaddedRow(layout.elements());
}
inline uint16_t* ElementRow(const RansRows& layout) { return LaneRow(layout, kRansMaxStreams); }

// Whether picks reach right into rows: all windows are whole, a group of 32 elements is one piece of memory.
constexpr uint32_t kRansWindow = 128;
constexpr uint32_t kRansWindowGroups = kRansWindow / kRansLanes;
inline bool PicksRows(const RansRows& layout) {
  return layout.order != nullptr && layout.order->windowed && layout.head_dim % kRansLanes == 0 &&
         layout.elements() % kRansWindow == 0;
}

// Between a token's row in a page and its lane row. Core::Pick permutes 32 values at a time. A staged row is
// read or written in one burst, so the next token's (if any) is fetched meanwhile.
inline void PrefetchRow(const RansRows& layout, const uint16_t* row) {
  constexpr uint32_t kLineElements = 32;
  for (uint32_t h = 0; h < layout.heads; ++h) {
    for (uint32_t c = 0; c < layout.head_dim; c += kLineElements) {
      __builtin_prefetch(row + h * layout.head_stride + c);
    }
  }
}

template <typename Core>
const uint16_t* StageIn(const RansShape& shape, const RansRows& layout, uint32_t stream, const uint16_t* row,
                        const uint16_t* next) {
  uint16_t* const lanes = LaneRow(layout, stream);
  if (next != nullptr) PrefetchRow(layout, next);
  if constexpr (Core::kPicksRows) {
    if (PicksRows(layout)) {
      Core::PickIn(layout, shape.groups(), row, lanes);
      return lanes;
    }
  }
  uint16_t* const elements = layout.order == nullptr ? lanes : ElementRow(layout);
  for (uint32_t h = 0; h < layout.heads; ++h) {
    std::memcpy(elements + size_t{h} * layout.head_dim, row + h * layout.head_stride,
                layout.head_dim * sizeof(uint16_t));
  }
  if (layout.order != nullptr) {
    Core::Pick(layout.order->lane_picks, layout.order->element_of_lane, shape.channels, nullptr, elements,
               lanes);
  }
  return lanes;
}
template <typename Core>
void StageOut(const RansRows& layout, uint32_t stream, uint16_t* row, uint16_t* next) {
  uint16_t* const lanes = LaneRow(layout, stream);
  if (next != nullptr && !layout.streaming_stores) PrefetchRow(layout, next);
  uint16_t* const elements = layout.order == nullptr ? lanes : ElementRow(layout);
  if (layout.order != nullptr) {
    Core::Pick(layout.order->element_picks, layout.order->lane_of_element, layout.elements(), layout.absent,
               lanes, elements);
  }
  for (uint32_t h = 0; h < layout.heads; ++h) {
    Core::Copy(elements + size_t{h} * layout.head_dim, layout.head_dim, layout.streaming_stores,
               row + h * layout.head_stride);
  }
}

// absent: [count], what outputs without a source become; null: 0.
inline void PickOne(const uint32_t* sources, uint32_t count, const uint16_t* absent, const uint16_t* from,
                    uint16_t* to) {
  for (uint32_t i = 0; i < count; ++i) {
    const uint16_t other = absent == nullptr ? uint16_t{0} : absent[i];
    to[i] = sources[i] == kRansNoLane ? other : from[sources[i]];
  }
}

// A stream is worth decoding when its sections fit and no initial state is below the interval.
inline bool Plausible(std::span<const std::byte> stream, size_t bypass_bytes) {
  if (stream.size() < kRansStateBytes + bypass_bytes) return false;
  for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
    if (base::LoadLe<uint16_t>(stream.data() + lane * sizeof(uint16_t)) < kRansLowerBound) return false;
  }
  return true;
}

// The bypass words of a partial last group must leave its dead lanes 0, or two streams would mean the same.
inline bool DeadBypassBitsAreZero(const RansShape& shape, const std::byte* bypass, size_t bypass_bytes) {
  const uint32_t last = shape.groups() - 1;
  const uint32_t bits = shape.rungs[last].bypass();
  const uint32_t dead = ~LiveMask(LiveLanes(shape, last));
  if (bits == 0 || dead == 0) return true;
  const size_t token_bytes = bypass_bytes / shape.tokens;
  for (uint32_t t = 1; t <= shape.tokens; ++t) {
    const std::byte* words = bypass + t * token_bytes - bits * sizeof(uint32_t);
    for (uint32_t plane = 0; plane < bits; ++plane) {
      if ((base::LoadLe<uint32_t>(words + plane * sizeof(uint32_t)) & dead) != 0) return false;
    }
  }
  return true;
}

template <typename Core>
class RansDriver {
 public:
  static void EncodeLevels(const RansShape& shape, uint32_t streams, const int16_t* const* levels,
                           std::byte* const* ends, size_t* sizes) {
    Encode(shape, nullptr, streams, ends, sizes,
           [&](EncodeJob& job, uint32_t slot, uint32_t v) { job.levels[slot] = levels[v]; });
  }

  static uint32_t EncodeRows(const RansShape& shape, const RansRows& layout, uint32_t streams,
                             const uint16_t* const* const* rows, std::byte* const* ends, size_t* sizes) {
    return Encode(shape, &layout, streams, ends, sizes,
                  [&](EncodeJob& job, uint32_t slot, uint32_t v) { job.rows[slot] = rows[v]; });
  }

  static uint32_t DecodeLevels(const RansShape& shape, uint32_t streams, const std::span<const std::byte>* in,
                               int16_t* const* levels) {
    return Decode(shape, nullptr, streams, in,
                  [&](DecodeJob& job, uint32_t slot, uint32_t v) { job.levels[slot] = levels[v]; });
  }

  static uint32_t DecodeRows(const RansShape& shape, const RansRows& layout, uint32_t streams,
                             const std::span<const std::byte>* in, uint16_t* const* const* rows) {
    return Decode(shape, &layout, streams, in,
                  [&](DecodeJob& job, uint32_t slot, uint32_t v) { job.rows[slot] = rows[v]; });
  }

  // For cores whose levels are bytes.
  static void EncodeBytes(const RansShape& shape, uint32_t streams, const int8_t* const* levels,
                          std::byte* const* ends, size_t* sizes) {
    Encode(shape, nullptr, streams, ends, sizes,
           [&](EncodeJob& job, uint32_t slot, uint32_t v) { job.bytes[slot] = levels[v]; });
  }
  static uint32_t DecodeBytes(const RansShape& shape, const RansByteRows& layout, uint32_t streams,
                              const std::span<const std::byte>* in, uint16_t* const* const* rows) {
    return Decode(shape, nullptr, streams, in, [&](DecodeJob& job, uint32_t slot, uint32_t v) {
      job.byte_rows = &layout;
      job.rows[slot] = rows[v];
    });
  }

 private:
  // The widest lockstep of at most `streams`.
  static constexpr uint32_t Width(uint32_t streams) {
    for (const uint32_t width : Core::kWidths) {
      if (width <= streams) return width;
    }
    return 1;
  }

  template <typename Bind>
  static uint32_t Encode(const RansShape& shape, const RansRows* layout, uint32_t streams,
                         std::byte* const* ends, size_t* sizes, const Bind& bind) {
    const size_t bypass_bytes = RansBypassBytes(shape);
    uint32_t uncodable = 0;
    for (uint32_t first = 0, width; first < streams; first += width) {
      width = Width(streams - first);
      EncodeJob job;
      Prepare(job, shape, layout);
      const auto reset = [&](uint32_t slot, uint32_t v) {
        job.bypass[slot] = job.at[slot] = ends[v] - bypass_bytes;
        bind(job, slot, v);
      };
      for (uint32_t i = 0; i < width; ++i) reset(i, first + i);
      if (Run(width, job)) {
        for (uint32_t i = 0; i < width; ++i) {
          sizes[first + i] = static_cast<size_t>(ends[first + i] - job.at[i]);
        }
        continue;
      }
      // The lockstep knows only that one of its streams holds such a value.
      for (uint32_t v = first; v < first + width; ++v) {
        reset(0, v);
        if (width == 1 || !Run(1, job)) {
          uncodable |= 1u << v;
        } else {
          sizes[v] = static_cast<size_t>(ends[v] - job.at[0]);
        }
      }
    }
    return uncodable;
  }

  template <typename Bind>
  static uint32_t Decode(const RansShape& shape, const RansRows* layout, uint32_t streams,
                         const std::span<const std::byte>* in, const Bind& bind) {
    const size_t bypass_bytes = RansBypassBytes(shape);
    uint32_t corrupt = 0;
    uint32_t good[kRansMaxStreams];
    uint32_t count = 0;
    for (uint32_t v = 0; v < streams; ++v) {
      if (Plausible(in[v], bypass_bytes) &&
          DeadBypassBitsAreZero(shape, in[v].data() + in[v].size() - bypass_bytes, bypass_bytes)) {
        good[count++] = v;
      } else {
        corrupt |= 1u << v;
      }
    }
    for (uint32_t first = 0, width; first < count; first += width) {
      width = Width(count - first);
      DecodeJob job;
      Prepare(job, shape, layout);
      for (uint32_t i = 0; i < width; ++i) {
        const std::span<const std::byte> stream = in[good[first + i]];
        job.states[i] = stream.data();
        job.at[i] = stream.data() + kRansStateBytes;
        job.end[i] = job.bypass[i] = stream.data() + stream.size() - bypass_bytes;
        bind(job, i, good[first + i]);
      }
      Run(width, job);
      for (uint32_t i = 0; i < width; ++i) {
        if (job.corrupt[i]) corrupt |= 1u << good[first + i];
      }
    }
    return corrupt;
  }

  template <typename Job>
  static void Prepare(Job& job, const RansShape& shape, const RansRows* layout) {
    job.shape = &shape;
    job.layout = layout;
    if (layout != nullptr) job.pieces = PiecesOf(shape, *layout);
  }

  template <uint32_t kWidth>
  static bool RunWidth(EncodeJob& job) {
    if constexpr (requires { Core::template EncodeRows<kWidth>(job); }) {
      if (job.layout != nullptr) return Core::template EncodeRows<kWidth>(job);
    }
    Core::template EncodeLevels<kWidth>(job);
    return true;
  }
  template <uint32_t kWidth>
  static bool RunWidth(DecodeJob& job) {
    if constexpr (requires { Core::template DecodeRows<kWidth>(job); }) {
      if (job.layout != nullptr) {
        Core::template DecodeRows<kWidth>(job);
        return true;
      }
    }
    Core::template DecodeLevels<kWidth>(job);
    return true;
  }
  template <typename Job>
  static bool Run(uint32_t width, Job& job) {
    if constexpr (Core::kWidths[0] >= 8) {
      if (width == 8) return RunWidth<8>(job);
    }
    if constexpr (Core::kWidths[0] >= 4) {
      if (width == 4) return RunWidth<4>(job);
    }
    if constexpr (Core::kWidths[0] >= 2) {
      if (width == 2) return RunWidth<2>(job);
    }
    return RunWidth<1>(job);
  }
};

}  // namespace kvplane::kernel::internal
