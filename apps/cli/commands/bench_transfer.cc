#include "apps/cli/commands/bench_transfer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <span>
#include <utility>

#include "apps/cli/bench_report.h"
#include "apps/cli/codec_bench/generator_profile.h"
#include "apps/cli/codec_bench/synthetic_kv.h"
#include "apps/cli/exit_code.h"
#include "apps/cli/strategy_list.h"
#include "apps/cli/transfer_bench/serial_stages.h"
#include "apps/cli/transfer_bench/transfer_pair.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/base/units.h"
#include "kvplane/stats/quantile.h"

namespace kvplane::cli {
namespace {

// Piece of the plain socket copy: that of the sender's own writes.
constexpr size_t kPlainPieceBytes = 256 << 10;

// How long the long transfer of the urgency rows takes alone, and how far it is when the short one comes.
constexpr double kLongSeconds = 0.25;
constexpr base::Duration kLongHeadStart = std::chrono::milliseconds(50);

double Median(const std::vector<double>& values) { return stats::Quantile(values, 0.5); }

struct Setting {
  PagedKv from;
  PagedKv to;
  std::vector<codec::Strategy> strategies;
  std::unique_ptr<TransferPair> pair;
  codec::CodecCache codecs;
  std::shared_ptr<const codec::ModelProfile> profile;  // null: no strategy needs one
  double plain_bits_per_s = 0;                         // of the plain socket copy
};

TransferJob Whole(Setting& setting, const codec::Strategy& strategy) {
  return {.from = &setting.from, .to = &setting.to, .tokens = setting.from.tokens(), .strategy = &strategy};
}

base::Result<TransferTiming> RunOne(Setting& setting, const TransferJob& job) {
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<TransferTiming> timings, setting.pair->Run({&job, 1}));
  return timings.front();
}

// The link is not shaped: a plain socket copy of the raw bytes beside whole transfers of them.
base::Status BenchGoodput(const BenchTransferArgs& args, Setting& setting, BenchReport& report) {
  const codec::Strategy off = *codec::Strategy::Parse("off");
  const uint64_t raw = setting.from.geometry().bytes_per_token() * setting.from.tokens();
  const double bits = static_cast<double>(raw) * 8;
  std::vector<double> plain;
  std::vector<double> transfer;
  std::vector<double> share;
  setting.pair->SetRate(transport::kUnlimitedRate);
  KVPLANE_RETURN_IF_ERROR(RunOne(setting, Whole(setting, off)).status());  // page faults, the connection
  for (uint32_t i = 0; i < args.repeats; ++i) {
    KVPLANE_ASSIGN_OR_RETURN(const double plain_s, PlainSocketCopy(raw, kPlainPieceBytes));
    KVPLANE_ASSIGN_OR_RETURN(const TransferTiming timing, RunOne(setting, Whole(setting, off)));
    plain.push_back(bits / plain_s);
    transfer.push_back(bits / timing.total_s);
    share.push_back(plain_s / timing.total_s);
  }
  setting.plain_bits_per_s = Median(plain);
  fmt::print(stderr, "goodput, link not shaped, {} raw, n = {}\n", base::FormatBytes(bits / 8), args.repeats);
  fmt::print(stderr, "  plain socket copy {:>12}\n  transfer, off     {:>12}  ({:.2f} of it)\n",
             base::FormatBitsPerSecond(Median(plain)), base::FormatBitsPerSecond(Median(transfer)),
             Median(share));
  report.AddSample({{"mode", "plain socket copy"}}, "goodput_bits_per_s", "bit/s", plain);
  report.AddSample({{"mode", "off"}}, "goodput_bits_per_s", "bit/s", transfer);
  report.AddSample({{"mode", "off"}}, "goodput_over_plain_copy", "1", share);
  return base::Status::Ok();
}

struct Overlap {
  std::vector<double> encode_s, wire_s, decode_s, serial_s, total_s, share;
  double ratio = 0;
  double rate = 0;  // bits per second
};

// The link is as fast as the slower codec stage, so that no stage hides behind a much slower one; but at most
// half as fast as a plain copy over loopback, which shares the cores with both codec stages here.
base::Status MeasureOverlap(Setting& setting, const codec::Strategy& strategy, Overlap& out) {
  KVPLANE_ASSIGN_OR_RETURN(const codec::SideCodecs codecs, setting.codecs.Bind(strategy, setting.profile));
  KVPLANE_ASSIGN_OR_RETURN(const SerialTimes serial,
                           CodeSerially(codecs, setting.from, setting.to, setting.from.tokens()));
  const double slower_s = std::max(serial.encode_s, serial.decode_s);
  if (out.rate == 0) {
    out.rate = std::min(static_cast<double>(serial.bytes) * 8 / slower_s, setting.plain_bits_per_s / 2);
  }
  setting.pair->SetRate(out.rate);
  KVPLANE_ASSIGN_OR_RETURN(const TransferTiming timing, RunOne(setting, Whole(setting, strategy)));
  // What the token bucket takes for these bytes: no time of its own is added to the serial sum.
  const double wire_s = static_cast<double>(timing.outcome.bytes_wire) * 8 / out.rate;
  const double serial_s = serial.encode_s + wire_s + serial.decode_s;
  out.encode_s.push_back(serial.encode_s);
  out.decode_s.push_back(serial.decode_s);
  out.wire_s.push_back(wire_s);
  out.serial_s.push_back(serial_s);
  out.total_s.push_back(timing.total_s);
  out.share.push_back(timing.total_s / serial_s);
  out.ratio = static_cast<double>(timing.outcome.bytes_raw) / static_cast<double>(timing.outcome.bytes_wire);
  return base::Status::Ok();
}

base::Status BenchOverlap(const BenchTransferArgs& args, Setting& setting, BenchReport& report) {
  fmt::print(stderr,
             "overlap (link as fast as the slower codec stage, at most half the plain copy), n = {}\n",
             args.repeats);
  fmt::print(stderr, "  {:<16} {:>7} {:>13} {:>9} {:>9} {:>9} {:>10} {:>9} {:>8}\n", "strategy", "ratio",
             "link", "encode ms", "wire ms", "decode ms", "serial ms", "total ms", "total/serial");
  std::vector<Overlap> measured(setting.strategies.size());
  for (uint32_t round = 0; round <= args.repeats; ++round) {
    for (size_t s = 0; s < measured.size(); ++s) {
      Overlap fresh;  // the first round warms up; its rate is not kept
      KVPLANE_RETURN_IF_ERROR(
          MeasureOverlap(setting, setting.strategies[s], round == 0 ? fresh : measured[s]));
    }
  }
  for (size_t s = 0; s < measured.size(); ++s) {
    const Overlap& one = measured[s];
    fmt::print(stderr, "  {:<16} {:>6.2f}x {:>13} {:>9.1f} {:>9.1f} {:>9.1f} {:>10.1f} {:>9.1f} {:>8.2f}\n",
               args.strategies[s], one.ratio, base::FormatBitsPerSecond(one.rate), Median(one.encode_s) * 1e3,
               Median(one.wire_s) * 1e3, Median(one.decode_s) * 1e3, Median(one.serial_s) * 1e3,
               Median(one.total_s) * 1e3, Median(one.share));
    const BenchCase where = {{"mode", args.strategies[s]}, {"link_bits_per_s", one.rate}};
    report.AddSample(where, "serial_s", "s", one.serial_s);
    report.AddSample(where, "total_s", "s", one.total_s);
    report.AddSample(where, "total_over_serial", "1", one.share);
  }
  return base::Status::Ok();
}

// A short prompt's KV that comes while a long one's is on the link. The order is the sender's own, as in a
// node: nothing here says which is urgent.
base::Status BenchUrgency(const BenchTransferArgs& args, Setting& setting, BenchReport& report) {
  const codec::Strategy off = *codec::Strategy::Parse("off");
  const uint64_t raw = setting.from.geometry().bytes_per_token() * setting.from.tokens();
  const double rate = static_cast<double>(raw) * 8 / kLongSeconds;
  setting.pair->SetRate(rate);
  PagedKv small_to(setting.from.geometry(), tensor::kTileTokens);
  TransferJob small = {.from = &setting.from,
                       .to = &small_to,
                       .tokens = std::min(setting.from.tokens(), tensor::kTileTokens),
                       .strategy = &off,
                       .comes_after = kLongHeadStart};
  std::vector<double> alone;
  std::vector<double> beside;
  std::vector<double> large;
  for (uint32_t i = 0; i < args.repeats; ++i) {
    KVPLANE_ASSIGN_OR_RETURN(const TransferTiming one, RunOne(setting, small));
    const TransferJob both[] = {Whole(setting, off), small};
    KVPLANE_ASSIGN_OR_RETURN(const std::vector<TransferTiming> timings, setting.pair->Run(both));
    alone.push_back(one.total_s);
    large.push_back(timings[0].total_s);
    beside.push_back(timings[1].total_s);
  }
  fmt::print(stderr, "urgency: {} tokens behind {} on a link of {}, n = {}\n", small.tokens,
             setting.from.tokens(), base::FormatBitsPerSecond(rate), args.repeats);
  fmt::print(stderr, "  alone {:.1f} ms, beside the long one {:.1f} ms; the long one {:.1f} ms\n",
             Median(alone) * 1e3, Median(beside) * 1e3, Median(large) * 1e3);
  const auto where = [&](const char* mode) { return BenchCase{{"mode", mode}, {"link_bits_per_s", rate}}; };
  report.AddSample(where("short, alone"), "total_s", "s", alone);
  report.AddSample(where("short, beside a long one"), "total_s", "s", beside);
  report.AddSample(where("long, beside a short one"), "total_s", "s", large);
  return base::Status::Ok();
}

base::Status RunBench(const BenchTransferArgs& args) {
  if (args.repeats == 0 || args.strategies.empty()) {
    return base::InvalidArgument("--repeats and --strategies must not be zero or empty");
  }
  SyntheticSpec spec;
  spec.geometry = {.layers = args.layers, .kv_heads = args.kv_heads, .head_dim = args.head_dim};
  spec.tokens = args.tokens;
  KVPLANE_RETURN_IF_ERROR(spec.Validate());
  std::vector<codec::Strategy> strategies;
  bool needs_profile = false;
  for (const std::string& text : args.strategies) {
    KVPLANE_ASSIGN_OR_RETURN(strategies.emplace_back(), codec::Strategy::Parse(text));
    needs_profile = needs_profile || strategies.back().needs_profile();
  }
  base::ThreadPool pool(1);
  codec::ProfileSet profiles;
  std::shared_ptr<const codec::ModelProfile> profile;
  if (needs_profile) {
    KVPLANE_ASSIGN_OR_RETURN(profile, FitGeneratorProfile(spec, pool));
    profiles.Add(profile);
  }
  KVPLANE_ASSIGN_OR_RETURN(auto pair, TransferPair::Create(args.codec_threads, std::move(profiles)));
  Setting setting{.from = SyntheticKv(spec, pool),
                  .to = PagedKv(spec.geometry, spec.tokens),
                  .strategies = std::move(strategies),
                  .pair = std::move(pair),
                  .codecs = codec::CodecCache(),
                  .profile = std::move(profile)};
  fmt::print(stderr,
             "{}\n{} layers of {} KV heads with head_dim {}, {} tokens; {} codec thread(s) at each end, "
             "both ends on this machine\n",
             Describe(ThisMachine()), args.layers, args.kv_heads, args.head_dim, args.tokens,
             args.codec_threads);
  BenchReport report("transfer", args.command);
  KVPLANE_RETURN_IF_ERROR(BenchGoodput(args, setting, report));
  KVPLANE_RETURN_IF_ERROR(BenchOverlap(args, setting, report));
  KVPLANE_RETURN_IF_ERROR(BenchUrgency(args, setting, report));
  return args.json.empty() ? base::Status::Ok() : report.WriteJson(args.json);
}

}  // namespace

int CmdBenchTransfer(const BenchTransferArgs& args) {
  const base::Status status = RunBench(args);
  if (!status.ok()) fmt::print(stderr, "kvplane bench transfer: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
