#include "kvplane/kernel/rans/rans_lanes_scalar.h"
#include "kvplane/kernel/rans/rans_symbols_driver.h"

// The definition, one lane at a time; the other instruction sets are tested against it.

namespace kvplane::kernel::internal {

// Four tables, so that equal neighbours do not wait for each other.
void CountSymbolsScalar(const uint8_t* symbols, size_t size, uint32_t /*alphabet*/, uint32_t* counts) {
  uint32_t part[4][kRansMaxAlphabet] = {};
  for (size_t i = 0; i < size; ++i) ++part[i % 4][symbols[i] % kRansMaxAlphabet];
  for (uint32_t s = 0; s < kRansMaxAlphabet; ++s) {
    counts[s] += part[0][s] + part[1][s] + part[2][s] + part[3][s];
  }
}

namespace {

struct ScalarSymbolCore {
  static constexpr uint32_t kWidths[] = {1};

  template <uint32_t>
  static void Encode(SymbolEncodeJob& job, uint32_t from, uint32_t to) {
    const RansSymbolShape& shape = *job.shape;
    EncodeState state(job.at[0]);
    std::copy_n(job.states[0].x, kRansLanes, state.x);
    for (uint32_t t = to; t-- > from;) {
      for (uint32_t h = shape.heads; h-- > 0;) {
        const uint8_t* row = job.symbols[0] + t * shape.token_stride + h * shape.head_stride;
        for (uint32_t c = shape.head_dim; c-- > 0;) {
          state.Push(c % kRansLanes, row[c], shape.tables[h]->encode);
        }
      }
    }
    job.at[0] = state.at;
    std::copy_n(state.x, kRansLanes, job.states[0].x);
  }

  template <uint32_t>
  static void Decode(SymbolDecodeJob& job, uint32_t from, uint32_t to) {
    const RansSymbolShape& shape = *job.shape;
    DecodeState state(job.at[0], job.end[0]);
    state.overrun = job.overrun[0];
    std::copy_n(job.states[0].x, kRansLanes, state.x);
    for (uint32_t t = from; t < to; ++t) {
      for (uint32_t h = 0; h < shape.heads; ++h) {
        uint8_t* row = job.symbols[0] + t * shape.token_stride + h * shape.head_stride;
        for (uint32_t c = 0; c < shape.head_dim; ++c) {
          row[c] = static_cast<uint8_t>(state.Pop(c % kRansLanes, shape.tables[h]->decode));
        }
      }
    }
    job.at[0] = state.at;
    job.overrun[0] = state.overrun;
    std::copy_n(state.x, kRansLanes, job.states[0].x);
  }
};

}  // namespace

const RansSymbolKernels kRansSymbolsScalar = {RansSymbolDriver<ScalarSymbolCore>::Encode,
                                              RansSymbolDriver<ScalarSymbolCore>::Decode, CountSymbolsScalar};

}  // namespace kvplane::kernel::internal
