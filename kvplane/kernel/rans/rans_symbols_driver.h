// Internal: what all instruction sets share around the inner loops of rans_symbols.h.
//
// A core has, for W in its kWidths (descending, ending in 1):
//   template <uint32_t W> static void Encode(SymbolEncodeJob&, uint32_t from, uint32_t to);
//   template <uint32_t W> static void Decode(SymbolDecodeJob&, uint32_t from, uint32_t to);
// which advance the W streams at the front of the job by the tokens [from, to), the encoder backwards. The
// states live in the job between calls, so that streams of unequal length can run apart at their ends.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/rans/rans_driver.h"
#include "kvplane/kernel/rans/rans_symbols.h"

namespace kvplane::kernel::internal {

extern const RansSymbolKernels kRansSymbolsScalar;
extern const RansSymbolKernels kRansSymbolsAvx2;
extern const RansSymbolKernels kRansSymbolsAvx512;

void CountSymbolsScalar(const uint8_t* symbols, size_t size, uint32_t alphabet, uint32_t* counts);

struct alignas(64) LaneStates {
  uint16_t x[kRansLanes];
};

struct SymbolEncodeJob {
  const RansSymbolShape* shape = nullptr;
  const uint8_t* symbols[kRansMaxStreams] = {};
  std::byte* at[kRansMaxStreams] = {};
  LaneStates states[kRansMaxStreams];
};

struct SymbolDecodeJob {
  const RansSymbolShape* shape = nullptr;
  uint8_t* symbols[kRansMaxStreams] = {};
  const std::byte* at[kRansMaxStreams] = {};
  const std::byte* end[kRansMaxStreams] = {};
  bool overrun[kRansMaxStreams] = {};
  LaneStates states[kRansMaxStreams];
};

inline const void* StatesOf(const SymbolDecodeJob& job, uint32_t v) { return job.states[v].x; }

template <typename Core>
class RansSymbolDriver {
 public:
  static void Encode(const RansSymbolShape& shape, uint32_t streams, const uint8_t* const* symbols,
                     const uint32_t* tokens, std::byte* const* ends, size_t* sizes) {
    for (uint32_t first = 0, width; first < streams; first += width) {
      width = Width(streams - first);
      SymbolEncodeJob job;
      job.shape = &shape;
      const uint32_t common = *std::min_element(tokens + first, tokens + first + width);
      // The tokens that not all have come last: the encoder meets them first.
      for (uint32_t i = 0; i < width; ++i) {
        const uint32_t v = first + i;
        job.symbols[i] = symbols[v];
        job.at[i] = ends[v];
        std::fill_n(job.states[i].x, kRansLanes, uint16_t{kRansLowerBound});
        if (tokens[v] > common) Alone(job, i, common, tokens[v]);
      }
      Run(width, job, 0, common);
      for (uint32_t i = 0; i < width; ++i) {
        std::byte* const at = job.at[i] - kRansStateBytes;
        for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
          base::StoreLe(at + lane * sizeof(uint16_t), job.states[i].x[lane]);
        }
        sizes[first + i] = static_cast<size_t>(ends[first + i] - at);
      }
    }
  }

  static uint32_t Decode(const RansSymbolShape& shape, uint32_t streams, const std::span<const std::byte>* in,
                         const uint32_t* tokens, uint8_t* const* symbols) {
    uint32_t corrupt = 0;
    uint32_t good[kRansMaxStreams];
    uint32_t count = 0;
    for (uint32_t v = 0; v < streams; ++v) {
      if (Plausible(in[v], 0)) {
        good[count++] = v;
      } else {
        corrupt |= 1u << v;
      }
    }
    for (uint32_t first = 0, width; first < count; first += width) {
      width = Width(count - first);
      SymbolDecodeJob job;
      job.shape = &shape;
      uint32_t common = tokens[good[first]];
      for (uint32_t i = 0; i < width; ++i) {
        const uint32_t v = good[first + i];
        common = std::min(common, tokens[v]);
        Bind(job, i, in[v], symbols[v]);
      }
      Run(width, job, 0, common);
      for (uint32_t i = 0; i < width; ++i) {
        const uint32_t v = good[first + i];
        if (tokens[v] > common) Alone(job, i, common, tokens[v]);
        if (!Whole(job, i)) corrupt |= 1u << v;
      }
    }
    return corrupt;
  }

 private:
  // The widest lockstep of at most `streams`.
  static constexpr uint32_t Width(uint32_t streams) {
    for (const uint32_t width : Core::kWidths) {
      if (width <= streams) return width;
    }
    return 1;
  }

  static void Bind(SymbolDecodeJob& job, uint32_t i, std::span<const std::byte> in, uint8_t* symbols) {
    for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
      job.states[i].x[lane] = base::LoadLe<uint16_t>(in.data() + lane * sizeof(uint16_t));
    }
    job.at[i] = in.data() + kRansStateBytes;
    job.end[i] = in.data() + in.size();
    job.symbols[i] = symbols;
  }

  static bool Whole(const SymbolDecodeJob& job, uint32_t i) {
    return !job.overrun[i] && job.at[i] == job.end[i] &&
           std::all_of(job.states[i].x, job.states[i].x + kRansLanes,
                       [](uint16_t x) { return x == kRansLowerBound; });
  }

  // Advances stream i alone.
  static void Alone(SymbolEncodeJob& job, uint32_t i, uint32_t from, uint32_t to) {
    SymbolEncodeJob one;
    one.shape = job.shape;
    one.symbols[0] = job.symbols[i];
    one.at[0] = job.at[i];
    one.states[0] = job.states[i];
    Core::template Encode<1>(one, from, to);
    job.at[i] = one.at[0];
    job.states[i] = one.states[0];
  }
  static void Alone(SymbolDecodeJob& job, uint32_t i, uint32_t from, uint32_t to) {
    SymbolDecodeJob one;
    one.shape = job.shape;
    one.symbols[0] = job.symbols[i];
    one.at[0] = job.at[i];
    one.end[0] = job.end[i];
    one.overrun[0] = job.overrun[i];
    one.states[0] = job.states[i];
    Core::template Decode<1>(one, from, to);
    job.at[i] = one.at[0];
    job.overrun[i] = one.overrun[0];
    job.states[i] = one.states[0];
  }

  template <uint32_t kWidth>
  static void RunWidth(SymbolEncodeJob& job, uint32_t from, uint32_t to) {
    Core::template Encode<kWidth>(job, from, to);
  }
  template <uint32_t kWidth>
  static void RunWidth(SymbolDecodeJob& job, uint32_t from, uint32_t to) {
    Core::template Decode<kWidth>(job, from, to);
  }
  template <typename Job>
  static void Run(uint32_t width, Job& job, uint32_t from, uint32_t to) {
    if constexpr (Core::kWidths[0] >= 8) {
      if (width == 8) return RunWidth<8>(job, from, to);
    }
    if constexpr (Core::kWidths[0] >= 4) {
      if (width == 4) return RunWidth<4>(job, from, to);
    }
    if constexpr (Core::kWidths[0] >= 2) {
      if (width == 2) return RunWidth<2>(job, from, to);
    }
    RunWidth<1>(job, from, to);
  }
};

}  // namespace kvplane::kernel::internal
