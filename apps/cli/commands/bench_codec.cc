#include "apps/cli/commands/bench_codec.h"

#include <fmt/format.h>
#include <lz4.h>
#include <zstd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "apps/cli/bench_report.h"
#include "apps/cli/exit_code.h"
#include "apps/cli/kv_sample.h"
#include "apps/cli/npy_file.h"
#include "kvplane/base/clock.h"
#include "kvplane/base/units.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/stats/quantile.h"

namespace kvplane::cli {
namespace {

constexpr tensor::KvGeometry kSyntheticGeometry = {.layers = 8, .kv_heads = 8, .head_dim = 128};
constexpr uint32_t kMaxRepeats = 1000;
constexpr uint32_t kMaxSyntheticTokens = 1 << 17;  // 4.3 GB, three times in memory
// What a tile costs beside its coded bytes, in objects: its index entry.
constexpr size_t kTileIndexBytes = 8;
// Piece in which zstd and lz4 see the raw bytes: about that of a tile.
constexpr size_t kPieceBytes = 128 << 10;
constexpr int kZstdLevel = 1;

struct Measured {
  std::string name;
  std::vector<double> encode_bytes_per_s;
  std::vector<double> decode_bytes_per_s;
  uint64_t coded_bytes = 0;
  std::array<double, 2> snr_db = {INFINITY, INFINITY};  // by side; infinite: bit-exact
  bool two_way = true;                                  // false: only the first rate means anything
};

// The buffers all contestants share, so that each works on the same pages and memory.
struct Arena {
  PagedKv in;
  PagedKv out;
  std::vector<std::byte> coded;
  codec::Workspace workspace;

  size_t raw_bytes() { return in.memory().size_bytes(); }
};

double SecondsOf(const std::function<base::Status()>& work, base::Status& status) {
  const base::TimePoint start = base::Clock::System().Now();
  status = work();
  return base::ToSeconds(base::Clock::System().Now() - start);
}

class Contestant {
 public:
  virtual ~Contestant() = default;
  virtual std::string name() const = 0;
  virtual base::Status Encode(Arena& arena) = 0;
  virtual base::Status Decode(Arena& arena) = 0;
  virtual uint64_t coded_bytes() const = 0;
  virtual bool two_way() const { return true; }
};

// Calls `visit` for every tile of `kv` in object order.
template <typename Visit>
base::Status ForEachTile(const PagedKv& kv, const Visit& visit) {
  for (uint32_t layer = 0; layer < kv.geometry().layers; ++layer) {
    const tensor::LayerPages pages = kv.layer(layer);
    for (const tensor::Side side : tensor::kSides) {
      for (uint32_t t = 0; t < kv.tokens(); t += tensor::kTileTokens) {
        const uint32_t tokens = std::min(tensor::kTileTokens, kv.tokens() - t);
        KVPLANE_RETURN_IF_ERROR(visit(
            side,
            tensor::MakeTileView(pages, side, t, tokens, 0, kv.geometry().kv_heads, kv.geometry().head_dim)));
      }
    }
  }
  return base::Status::Ok();
}

class StrategyContestant final : public Contestant {
 public:
  static base::Result<std::unique_ptr<Contestant>> Create(const std::string& text) {
    KVPLANE_ASSIGN_OR_RETURN(const codec::Strategy strategy, codec::Strategy::Parse(text));
    auto contestant = std::make_unique<StrategyContestant>();
    contestant->name_ = text;
    for (const tensor::Side side : tensor::kSides) {
      KVPLANE_ASSIGN_OR_RETURN(contestant->codecs_[static_cast<size_t>(side)],
                               codec::TileCodec::Create(strategy.side(side), side));
    }
    return std::unique_ptr<Contestant>(std::move(contestant));
  }

  std::string name() const override { return name_; }
  uint64_t coded_bytes() const override { return coded_bytes_ + tile_bytes_.size() * kTileIndexBytes; }

  base::Status Encode(Arena& arena) override {
    coded_bytes_ = 0;
    tile_bytes_.clear();
    return ForEachTile(arena.in, [&](tensor::Side side, const tensor::TileView& view) -> base::Status {
      KVPLANE_ASSIGN_OR_RETURN(const size_t bytes, codecs_[static_cast<size_t>(side)]->Encode(
                                                       tensor::AsConst(view), arena.workspace,
                                                       std::span(arena.coded).subspan(coded_bytes_)));
      tile_bytes_.push_back(bytes);
      coded_bytes_ += bytes;
      return base::Status::Ok();
    });
  }

  base::Status Decode(Arena& arena) override {
    size_t at = 0;
    size_t tile = 0;
    return ForEachTile(arena.out, [&](tensor::Side side, const tensor::TileView& view) {
      const auto coded = std::span<const std::byte>(arena.coded).subspan(at, tile_bytes_[tile]);
      at += tile_bytes_[tile++];
      return codecs_[static_cast<size_t>(side)]->Decode(coded, arena.workspace, view);
    });
  }

 private:
  std::string name_;
  std::array<std::shared_ptr<const codec::TileCodec>, 2> codecs_;
  uint64_t coded_bytes_ = 0;
  std::vector<size_t> tile_bytes_;
};

class MemcpyContestant final : public Contestant {
 public:
  std::string name() const override { return "memcpy"; }
  uint64_t coded_bytes() const override { return 0; }
  bool two_way() const override { return false; }
  base::Status Encode(Arena& arena) override {
    std::memcpy(arena.out.memory().data(), arena.in.memory().data(), arena.raw_bytes());
    return base::Status::Ok();
  }
  base::Status Decode(Arena&) override { return base::Status::Ok(); }
};

// CRC32C over the raw bytes: what checking them costs.
class CrcContestant final : public Contestant {
 public:
  std::string name() const override { return "crc32c"; }
  uint64_t coded_bytes() const override { return 0; }
  bool two_way() const override { return false; }
  base::Status Encode(Arena& arena) override {
    const auto bytes = std::as_bytes(arena.in.memory());
    for (size_t at = 0; at < bytes.size(); at += kPieceBytes) {
      sum_ ^= codec::TileCrc(bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at)));
    }
    return base::Status::Ok();
  }
  base::Status Decode(Arena&) override { return base::Status::Ok(); }

 private:
  uint32_t sum_ = 0;  // keeps the work from being optimised away
};

// A general-purpose compressor over pieces of the raw bytes.
class ByteContestant : public Contestant {
 public:
  uint64_t coded_bytes() const override { return coded_bytes_ + piece_bytes_.size() * kTileIndexBytes; }

  base::Status Encode(Arena& arena) override {
    coded_bytes_ = 0;
    piece_bytes_.clear();
    const auto bytes = std::as_bytes(arena.in.memory());
    for (size_t at = 0; at < bytes.size(); at += kPieceBytes) {
      const auto piece = bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at));
      const size_t coded = Compress(piece, std::span(arena.coded).subspan(coded_bytes_));
      if (coded == 0) return base::Internal("{}: compression failed", name());
      piece_bytes_.push_back(coded);
      coded_bytes_ += coded;
    }
    return base::Status::Ok();
  }

  base::Status Decode(Arena& arena) override {
    const auto bytes = std::as_writable_bytes(arena.out.memory());
    size_t from = 0;
    size_t index = 0;
    for (size_t at = 0; at < bytes.size(); at += kPieceBytes, ++index) {
      const auto piece = bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at));
      const auto coded = std::span<const std::byte>(arena.coded).subspan(from, piece_bytes_[index]);
      if (!Decompress(coded, piece)) return base::Internal("{}: decompression failed", name());
      from += piece_bytes_[index];
    }
    return base::Status::Ok();
  }

 private:
  // Bytes written, 0 on failure.
  virtual size_t Compress(std::span<const std::byte> in, std::span<std::byte> out) = 0;
  virtual bool Decompress(std::span<const std::byte> in, std::span<std::byte> out) = 0;

  uint64_t coded_bytes_ = 0;
  std::vector<size_t> piece_bytes_;
};

class ZstdContestant final : public ByteContestant {
 public:
  std::string name() const override { return "zstd -1"; }

 private:
  struct Free {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  size_t Compress(std::span<const std::byte> in, std::span<std::byte> out) override {
    const size_t n =
        ZSTD_compressCCtx(compressor_.get(), out.data(), out.size(), in.data(), in.size(), kZstdLevel);
    return ZSTD_isError(n) != 0 ? 0 : n;
  }
  bool Decompress(std::span<const std::byte> in, std::span<std::byte> out) override {
    return ZSTD_decompressDCtx(decompressor_.get(), out.data(), out.size(), in.data(), in.size()) ==
           out.size();
  }
  std::unique_ptr<ZSTD_CCtx, Free> compressor_{ZSTD_createCCtx()};
  std::unique_ptr<ZSTD_DCtx, Free> decompressor_{ZSTD_createDCtx()};
};

class Lz4Contestant final : public ByteContestant {
 public:
  std::string name() const override { return "lz4"; }

 private:
  size_t Compress(std::span<const std::byte> in, std::span<std::byte> out) override {
    const size_t room =
        std::min(out.size(), static_cast<size_t>(LZ4_compressBound(static_cast<int>(in.size()))));
    const int n =
        LZ4_compress_default(reinterpret_cast<const char*>(in.data()), reinterpret_cast<char*>(out.data()),
                             static_cast<int>(in.size()), static_cast<int>(room));
    return n > 0 ? static_cast<size_t>(n) : 0;
  }
  bool Decompress(std::span<const std::byte> in, std::span<std::byte> out) override {
    return LZ4_decompress_safe(reinterpret_cast<const char*>(in.data()), reinterpret_cast<char*>(out.data()),
                               static_cast<int>(in.size()),
                               static_cast<int>(out.size())) == static_cast<int>(out.size());
  }
};

// Signal to noise of arena.out against arena.in per side, in decibels.
std::array<double, 2> SnrDb(Arena& arena) {
  std::array<double, 2> signal{}, noise{};
  std::vector<tensor::TileView> originals;
  const base::Status collected = ForEachTile(arena.in, [&](tensor::Side, const tensor::TileView& view) {
    originals.push_back(view);
    return base::Status::Ok();
  });
  size_t tile = 0;
  const base::Status compared = ForEachTile(arena.out, [&](tensor::Side side, const tensor::TileView& view) {
    const tensor::TileView& original = originals[tile++];
    for (uint32_t r = 0; r < view.run_count; ++r) {
      for (uint32_t h = 0; h < view.heads; ++h) {
        for (uint32_t t = 0; t < view.runs[r].tokens; ++t) {
          const size_t offset = h * view.head_stride + t * view.token_stride;
          for (uint32_t c = 0; c < view.head_dim; ++c) {
            const double x = tensor::Bf16ToFloat(original.runs[r].base[offset + c]);
            const double e = x - tensor::Bf16ToFloat(view.runs[r].base[offset + c]);
            signal[static_cast<size_t>(side)] += x * x;
            noise[static_cast<size_t>(side)] += e * e;
          }
        }
      }
    }
    return base::Status::Ok();
  });
  if (!collected.ok() || !compared.ok()) return {NAN, NAN};
  return {10 * std::log10(signal[0] / noise[0]), 10 * std::log10(signal[1] / noise[1])};
}

base::Result<std::vector<std::unique_ptr<Contestant>>> MakeContestants(const BenchCodecArgs& args) {
  std::vector<std::unique_ptr<Contestant>> contestants;
  contestants.push_back(std::make_unique<MemcpyContestant>());
  contestants.push_back(std::make_unique<CrcContestant>());
  contestants.push_back(std::make_unique<ZstdContestant>());
  contestants.push_back(std::make_unique<Lz4Contestant>());
  for (const std::string& text : args.strategies) {
    KVPLANE_ASSIGN_OR_RETURN(contestants.emplace_back(), StrategyContestant::Create(text));
  }
  return contestants;
}

// One warm-up round that also measures the error, then `repeats` rounds over all contestants in turn.
base::Result<std::vector<Measured>> Run(std::vector<std::unique_ptr<Contestant>>& contestants, Arena& arena,
                                        uint32_t repeats) {
  std::vector<Measured> measured(contestants.size());
  const auto raw = static_cast<double>(arena.raw_bytes());
  for (uint32_t round = 0; round <= repeats; ++round) {
    for (size_t i = 0; i < contestants.size(); ++i) {
      Contestant& contestant = *contestants[i];
      base::Status status;
      const double encode_s = SecondsOf([&] { return contestant.Encode(arena); }, status);
      KVPLANE_RETURN_IF_ERROR(status);
      const double decode_s = SecondsOf([&] { return contestant.Decode(arena); }, status);
      KVPLANE_RETURN_IF_ERROR(status);
      if (round == 0) {
        measured[i].name = contestant.name();
        measured[i].two_way = contestant.two_way();
        measured[i].coded_bytes = contestant.coded_bytes();
        if (contestant.two_way()) measured[i].snr_db = SnrDb(arena);
        continue;
      }
      measured[i].encode_bytes_per_s.push_back(raw / encode_s);
      if (contestant.two_way()) measured[i].decode_bytes_per_s.push_back(raw / decode_s);
    }
  }
  return measured;
}

void PrintTable(const std::vector<Measured>& measured, double raw_bytes) {
  fmt::print(stderr, "{:<12} {:>7} {:>7} {:>8} {:>8} {:>12} {:>12}\n", "strategy", "b/val", "ratio",
             "SNR K dB", "SNR V dB", "encode GB/s", "decode GB/s");
  for (const Measured& m : measured) {
    const double encode = stats::Quantile(m.encode_bytes_per_s, 0.5) / 1e9;
    if (!m.two_way) {
      fmt::print(stderr, "{:<12} {:>7} {:>7} {:>8} {:>8} {:>12.2f}\n", m.name, "", "", "", "", encode);
      continue;
    }
    const auto snr = [](double db) {
      return std::isinf(db) ? std::string("exact") : fmt::format("{:.1f}", db);
    };
    const auto coded = static_cast<double>(m.coded_bytes);
    fmt::print(stderr, "{:<12} {:>7.3f} {:>7.3f} {:>8} {:>8} {:>12.2f} {:>12.2f}\n", m.name,
               16 * coded / raw_bytes, raw_bytes / coded, snr(m.snr_db[0]), snr(m.snr_db[1]), encode,
               stats::Quantile(m.decode_bytes_per_s, 0.5) / 1e9);
  }
}

BenchReport MakeReport(const BenchCodecArgs& args, const std::vector<Measured>& measured, double raw_bytes) {
  BenchReport report("codec", args.command);
  for (const Measured& m : measured) {
    const BenchCase where = {{"strategy", m.name},
                             {"input", args.kv.empty() ? std::string("synthetic") : args.kv},
                             {"raw_bytes", static_cast<int64_t>(raw_bytes)}};
    if (!m.two_way) {
      const std::string metric = fmt::format("{}_bytes_per_s", m.name);
      report.AddSample(where, metric, "B/s", m.encode_bytes_per_s);
      continue;
    }
    const auto coded = static_cast<double>(m.coded_bytes);
    report.AddSample(where, "bits_per_value", "bit", {16 * coded / raw_bytes});
    report.AddSample(where, "ratio", "1", {raw_bytes / coded});
    if (std::isfinite(m.snr_db[0])) report.AddSample(where, "snr_k_db", "dB", {m.snr_db[0]});
    if (std::isfinite(m.snr_db[1])) report.AddSample(where, "snr_v_db", "dB", {m.snr_db[1]});
    report.AddSample(where, "encode_bytes_per_s", "B/s", m.encode_bytes_per_s);
    report.AddSample(where, "decode_bytes_per_s", "B/s", m.decode_bytes_per_s);
  }
  return report;
}

base::Result<PagedKv> LoadInput(const BenchCodecArgs& args) {
  if (args.repeats < 1 || args.repeats > kMaxRepeats) {
    return base::InvalidArgument("repeats {}: legal are 1..{}", args.repeats, kMaxRepeats);
  }
  if (!args.kv.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(RawKv raw, ReadNpy(args.kv));
    return PagedKv::Copy(raw);
  }
  if (args.tokens < 1 || args.tokens > kMaxSyntheticTokens) {
    return base::InvalidArgument("tokens {}: legal are 1..{}", args.tokens, kMaxSyntheticTokens);
  }
  return SyntheticKv(kSyntheticGeometry, args.tokens, args.seed);
}

base::Status Bench(const BenchCodecArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(auto contestants, MakeContestants(args));
  KVPLANE_ASSIGN_OR_RETURN(PagedKv in, LoadInput(args));
  PagedKv out(in.geometry(), in.tokens());
  Arena arena{std::move(in), std::move(out), {}, {}};
  // Room for the worst of all: incompressible pieces with the compressors' own overhead.
  const size_t pieces = arena.raw_bytes() / kPieceBytes + 1;
  arena.coded.resize(arena.raw_bytes() + pieces * (kPieceBytes / 128) + (1 << 20));

  fmt::print(stderr, "{}\n", Describe(ThisMachine()));
  fmt::print(stderr, "{} KV: {} layers, {} tokens, {} heads of {}; {} of bf16; one thread; median of {}\n",
             args.kv.empty() ? "synthetic" : args.kv, arena.in.geometry().layers, arena.in.tokens(),
             arena.in.geometry().kv_heads, arena.in.geometry().head_dim,
             base::FormatBytes(static_cast<double>(arena.raw_bytes())), args.repeats);
  KVPLANE_ASSIGN_OR_RETURN(const auto measured, Run(contestants, arena, args.repeats));
  const auto raw_bytes = static_cast<double>(arena.raw_bytes());
  PrintTable(measured, raw_bytes);
  if (args.json.empty()) return base::Status::Ok();
  return MakeReport(args, measured, raw_bytes).WriteJson(args.json);
}

}  // namespace

int CmdBenchCodec(const BenchCodecArgs& args) {
  const base::Status status = Bench(args);
  if (!status.ok()) fmt::print(stderr, "kvplane: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
