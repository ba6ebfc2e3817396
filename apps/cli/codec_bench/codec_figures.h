// What `bench codec` shows of its measurements: a table, the report's rows, a rate-distortion picture.
//
// Thread safety: values, pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "apps/cli/bench_report.h"
#include "apps/cli/codec_bench/codec_race.h"
#include "apps/cli/codec_bench/distortion.h"
#include "apps/cli/plot/scatter_plot.h"
#include "apps/cli/strategy_list.h"

namespace kvplane::cli {

struct CodecFigures {
  std::string label;
  StrategyFamily family = StrategyFamily::kLossless;
  bool two_way = true;                    // false: a yardstick of which only the encode rate means anything
  bool strategy = false;                  // false: a yardstick
  std::array<uint64_t, 2> coded_bytes{};  // by tensor::Side
  uint64_t raw_bytes = 0;                 // of both sides, which have the same
  SquaredError error;
  AttentionError attention;  // empty: no queries
  RaceResult speed;

  double ratio() const;
  double bits_per_value() const;
  double bits_per_value(size_t side) const;
};

// "exact" for an infinite ratio of signal to noise.
std::string FormatSnr(double db);

// "all cores: 2 threads, which had 97 % of them": the median contestant's share.
std::string DescribeCores(std::span<const CodecFigures> figures, size_t workers);

// One line per contestant, as text for people. GB/s of bf16: medians, wall time, CPU time where it says so.
std::string CodecTable(std::span<const CodecFigures> figures);

// Adds a contestant's rows. `where` names the input.
void AddCodecRows(BenchReport& report, const BenchCase& where, const CodecFigures& figures, size_t workers);

// b/val against SNR of keys and of values, and against attention's error where there are queries.
ScatterPlot CodecPlot(std::span<const CodecFigures> figures, std::string subtitle);

}  // namespace kvplane::cli
