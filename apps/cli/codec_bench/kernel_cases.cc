// The kernels that have bars: what runs, on which data, and how much work a run is.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "apps/cli/codec_bench/codec_arena.h"
#include "apps/cli/codec_bench/contestant.h"
#include "apps/cli/codec_bench/generator_profile.h"
#include "apps/cli/codec_bench/kernel_bars.h"
#include "apps/cli/codec_bench/synthetic_kv.h"
#include "apps/cli/page_memory.h"
#include "kvplane/base/check.h"
#include "kvplane/base/rng.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/kernel/hadamard/hadamard.h"
#include "kvplane/kernel/isa.h"
#include "kvplane/kernel/project/project.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/tensor/dtype.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::cli {
namespace {

constexpr uint32_t kHeads = 8;
constexpr uint32_t kHeadDim = 128;
constexpr uint32_t kChannels = kHeads * kHeadDim;
constexpr uint32_t kGroups = kChannels / kernel::kRansLanes;
// Levels stay in the caches: that figure is the coder's, the fused ones include memory.
constexpr uint32_t kLevelTokens = 32;
// 134 MB: beyond the caches, with as much again for the output.
constexpr uint32_t kMemoryTiles = 1024;
// Names that ratios refer to.
constexpr const char* kMemcpy = "memcpy, DRAM to DRAM";
constexpr const char* kDecodeLevels = "rANS-B decode, 8 streams";
constexpr const char* kDecodeScalar = "rANS-B decode, 8 streams, scalar path";
constexpr const char* kFusedDecode = "fused decode, bytes to bf16 in DRAM";
constexpr std::string_view kNestedText = "centre(static) | ternary(layers=2,snr=24) | rans(class)";
constexpr const char* kPresetDecode = "c11 by tiles, decode";

// Deviation over step of a group of channels: 0.5 to 3 in a wide spread, about 2.2 bits per value.
double GroupRatio(uint32_t group) {
  return 0.5 * std::pow(6.0, static_cast<double>(group) / (kGroups - 1)) * 0.8;
}

std::vector<kernel::RansRung> MakeRungs() {
  std::vector<kernel::RansRung> rungs;
  for (uint32_t g = 0; g < kGroups; ++g) {
    const double octaves = std::log2(GroupRatio(g) / 0.25);
    rungs.push_back(
        kernel::RansLadderRung(static_cast<uint32_t>(std::clamp(std::lround(4 * octaves), 0l, 32l))));
  }
  return rungs;
}

// Streams of levels in the caches, coded once; encode and decode of one instruction set.
class LevelStreams {
 public:
  LevelStreams(kernel::Isa isa, uint32_t streams, base::Rng rng)
      : kernels_(kernel::Rans(isa)), streams_(streams), rungs_(MakeRungs()) {
    shape_ = {kLevelTokens, kChannels, rungs_.data()};
    const size_t room = kernel::RansMaxStreamBytes(shape_);
    for (uint32_t v = 0; v < streams; ++v) {
      levels_.emplace_back(shape_.steps() * kernel::kRansLanes);
      decoded_.emplace_back(levels_.back().size());
      coded_.emplace_back(room);
      for (size_t i = 0; i < levels_[v].size(); ++i) {
        const auto group = static_cast<uint32_t>(i / kernel::kRansLanes % kGroups);
        const auto level = static_cast<int32_t>(std::lround(GroupRatio(group) * rng.Normal()));
        levels_[v][i] =
            static_cast<int16_t>(std::clamp(level, rungs_[group].min_level(), rungs_[group].max_level()));
      }
      sources_[v] = levels_[v].data();
      targets_[v] = decoded_[v].data();
      ends_[v] = coded_[v].data() + room;
    }
    Encode();
    Decode();
    for (uint32_t v = 0; v < streams; ++v) KVPLANE_CHECK(levels_[v] == decoded_[v]);
  }

  double values() const { return static_cast<double>(streams_ * shape_.steps() * kernel::kRansLanes); }
  void Encode() {
    kernels_.encode_levels(shape_, streams_, sources_.data(), ends_.data(), sizes_.data());
    for (uint32_t v = 0; v < streams_; ++v) in_[v] = {ends_[v] - sizes_[v], sizes_[v]};
  }
  void Decode() { KVPLANE_CHECK(kernels_.decode_levels(shape_, streams_, in_.data(), targets_.data()) == 0); }

 private:
  const kernel::RansKernels& kernels_;
  uint32_t streams_;
  std::vector<kernel::RansRung> rungs_;
  kernel::RansShape shape_;
  std::vector<std::vector<int16_t>> levels_, decoded_;
  std::vector<std::vector<std::byte>> coded_;
  std::array<const int16_t*, kernel::kRansMaxStreams> sources_{};
  std::array<int16_t*, kernel::kRansMaxStreams> targets_{};
  std::array<std::byte*, kernel::kRansMaxStreams> ends_{};
  std::array<size_t, kernel::kRansMaxStreams> sizes_{};
  std::array<std::span<const std::byte>, kernel::kRansMaxStreams> in_{};
};

// Tiles of bf16 in DRAM, [kMemoryTiles, 64, heads, head_dim], and as much for what comes back: the same
// memory for memcpy and for every codec, laid out as in a node.
struct MemoryTiles {
  PageMemory in_pages;
  PageMemory out_pages;
  std::span<uint16_t> in;
  std::span<uint16_t> out;

  static constexpr size_t kTileValues = size_t{tensor::kTileTokens} * kChannels;
  explicit MemoryTiles(base::Rng rng)
      : in_pages(kMemoryTiles * kTileValues),
        out_pages(in_pages.values().size()),
        in(in_pages.values()),
        out(out_pages.values()) {
    // A few tiles of fresh values, repeated: drawing all would take longer than measuring.
    constexpr size_t kFresh = 16 * kTileValues;
    for (size_t i = 0; i < in.size(); ++i) {
      if (i >= kFresh) {
        in[i] = in[i - kFresh];
        continue;
      }
      const auto group = static_cast<uint32_t>(i / kernel::kRansLanes % kGroups);
      in[i] = tensor::FloatToBf16(static_cast<float>(GroupRatio(group) * rng.Normal()));
    }
  }
  double bytes() const { return static_cast<double>(in.size_bytes()); }
  const uint16_t* tile(size_t i) const { return in.data() + i * kTileValues; }
  uint16_t* target(size_t i) { return out.data() + i * kTileValues; }
};

// bf16 rows to rANS streams and back, 8 tiles in lockstep, as C11 does.
class FusedStreams {
 public:
  explicit FusedStreams(std::shared_ptr<MemoryTiles> tiles)
      : tiles_(std::move(tiles)), rungs_(MakeRungs()), scales_(kGroups), sizes_(kMemoryTiles) {
    shape_ = {tensor::kTileTokens, kChannels, rungs_.data()};
    for (kernel::RansScale& scale : scales_) {
      for (uint32_t lane = 0; lane < kernel::kRansLanes; ++lane) scale.Set(lane, 1.0f, 1.0f, 0.0f);
    }
    layout_ = {.scales = scales_.data(),
               .heads = kHeads,
               .head_dim = kHeadDim,
               .head_stride = kHeadDim,
               .order = nullptr,
               .scratch = nullptr,
               .streaming_stores = true};
    slot_bytes_ = kernel::RansMaxStreamBytes(shape_);
    coded_.resize(slot_bytes_ * kMemoryTiles);
    Encode();
  }

  void Encode() {
    for (size_t first = 0; first < kMemoryTiles; first += kStreams) {
      std::array<std::array<const uint16_t*, tensor::kTileTokens>, kStreams> rows;
      std::array<const uint16_t* const*, kStreams> streams;
      std::array<std::byte*, kStreams> ends;
      for (size_t v = 0; v < kStreams; ++v) {
        for (size_t t = 0; t < tensor::kTileTokens; ++t) rows[v][t] = tiles_->tile(first + v) + t * kChannels;
        streams[v] = rows[v].data();
        ends[v] = coded_.data() + (first + v + 1) * slot_bytes_;
      }
      KVPLANE_CHECK(kernel::Rans().encode_rows(shape_, layout_, kStreams, streams.data(), ends.data(),
                                               sizes_.data() + first) == 0);
    }
  }

  void Decode() {
    for (size_t first = 0; first < kMemoryTiles; first += kStreams) {
      std::array<std::array<uint16_t*, tensor::kTileTokens>, kStreams> rows;
      std::array<uint16_t* const*, kStreams> streams;
      std::array<std::span<const std::byte>, kStreams> in;
      for (size_t v = 0; v < kStreams; ++v) {
        for (size_t t = 0; t < tensor::kTileTokens; ++t)
          rows[v][t] = tiles_->target(first + v) + t * kChannels;
        streams[v] = rows[v].data();
        in[v] = {coded_.data() + (first + v + 1) * slot_bytes_ - sizes_[first + v], sizes_[first + v]};
      }
      KVPLANE_CHECK(kernel::Rans().decode_rows(shape_, layout_, kStreams, in.data(), streams.data()) == 0);
    }
  }

 private:
  static constexpr uint32_t kStreams = kernel::kRansMaxStreams;
  static_assert(kMemoryTiles % kStreams == 0);
  std::shared_ptr<MemoryTiles> tiles_;
  std::vector<kernel::RansRung> rungs_;
  std::vector<kernel::RansScale> scales_;
  kernel::RansShape shape_;
  kernel::RansRows layout_;
  size_t slot_bytes_ = 0;
  std::vector<std::byte> coded_;
  std::vector<size_t> sizes_;  // [tiles]
};

// A chain of one side on tiles in DRAM.
class ChainTiles {
 public:
  ChainTiles(std::shared_ptr<MemoryTiles> tiles, std::string_view text, tensor::Side side)
      : tiles_(std::move(tiles)), sizes_(kMemoryTiles) {
    const auto strategy = codec::SideStrategy::Parse(text, side);
    KVPLANE_CHECK(strategy.ok());
    auto codec = codec::TileCodec::Create(*strategy, side);
    KVPLANE_CHECK(codec.ok());
    codec_ = *std::move(codec);
    coded_.resize(kMemoryTiles * kSlot);
    Encode();
  }
  void Encode() {
    for (size_t i = 0; i < kMemoryTiles; ++i) {
      const auto view =
          tensor::ConstTileView::Contiguous(tiles_->tile(i), tensor::kTileTokens, kHeads, kHeadDim);
      const auto size = codec_->Encode(view, workspace_, std::span(coded_).subspan(i * kSlot, kSlot));
      KVPLANE_CHECK(size.ok());
      sizes_[i] = *size;
    }
  }
  void Decode() {
    for (size_t i = 0; i < kMemoryTiles; ++i) {
      const auto view =
          tensor::TileView::Contiguous(tiles_->target(i), tensor::kTileTokens, kHeads, kHeadDim);
      const auto coded = std::span<const std::byte>(coded_).subspan(i * kSlot, sizes_[i]);
      KVPLANE_CHECK(codec_->Decode(coded, workspace_, view).ok());
    }
  }

 private:
  static constexpr size_t kSlot = MemoryTiles::kTileValues * sizeof(uint16_t) + 64;
  std::shared_ptr<MemoryTiles> tiles_;
  std::shared_ptr<const codec::TileCodec> codec_;
  codec::Workspace workspace_;
  std::vector<std::byte> coded_;
  std::vector<size_t> sizes_;
};

// Transforms of rows of 128 in the caches, aligned like a codec's workspace: 64 tokens of 64 heads.
class RowTransforms {
 public:
  explicit RowTransforms(base::Rng rng)
      : in_pages_(kValues),
        out_pages_(kValues),
        in_(in_pages_.values()),
        out_(out_pages_.values()),
        gains_(kHeadDim) {
    for (uint16_t& value : in_) value = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
    std::vector<uint16_t> matrix(size_t{kHeadDim} * kHeadDim);
    for (uint16_t& value : matrix) value = tensor::FloatToBf16(static_cast<float>(rng.Normal()) / 11.3f);
    matrix_ = kernel::PackedMatrix::Pack(matrix.data(), kHeadDim, kHeadDim, kHeadDim);
    const kernel::HadamardPlan plan(kHeadDim);
    for (uint32_t c = 0; c < kHeadDim; ++c)
      gains_[c] = (rng.Below(2) == 0 ? 1.0f : -1.0f) * plan.segments()[0].gain;
    for (size_t t = 0; t < kRows; ++t) rows_.push_back(in_.data() + t * kHeadDim);
  }
  static constexpr double values() { return static_cast<double>(kValues); }
  void Project() {
    for (size_t t = 0; t < kRows; t += tensor::kTileTokens) {
      kernel::Project().to_bf16({.x = in_.data() + t * kHeadDim,
                                 .x_stride = kHeadDim,
                                 .tokens = tensor::kTileTokens,
                                 .depth = kHeadDim,
                                 .matrix = &matrix_,
                                 .columns = kHeadDim},
                                out_.data() + t * kHeadDim, kHeadDim);
    }
  }
  void Hadamard() {
    const kernel::HadamardPlan plan(kHeadDim);
    for (size_t t = 0; t < kRows; t += tensor::kTileTokens) {
      kernel::Hadamard().Forward(plan, rows_.data() + t, tensor::kTileTokens, {}, gains_.data(),
                                 out_.data() + t * kHeadDim, kHeadDim);
    }
  }

 private:
  static constexpr size_t kRows = 64 * 64;
  static constexpr size_t kValues = kRows * kHeadDim;
  PageMemory in_pages_, out_pages_;
  std::span<uint16_t> in_, out_;
  std::vector<const uint16_t*> rows_;
  std::vector<float> gains_;
  kernel::PackedMatrix matrix_;
};

void AddLevelCases(std::vector<KernelCase>& cases, base::Rng& rng) {
  const kernel::Isa active = kernel::ActiveIsa();
  const auto add = [&](std::string name, kernel::Isa isa, uint32_t streams, bool decode,
                       std::optional<KernelBar> bar) {
    const auto level_streams = std::make_shared<LevelStreams>(isa, streams, rng.Split());
    cases.push_back({std::move(name), "Gval/s", level_streams->values(),
                     [level_streams, decode] { decode ? level_streams->Decode() : level_streams->Encode(); },
                     bar});
  };
  add("rANS-B decode, 1 stream", active, 1, true, std::nullopt);
  add("rANS-B decode, 4 streams", active, 4, true, std::nullopt);
  add(kDecodeLevels, active, 8, true, KernelBar{15, 7});
  add(kDecodeScalar, kernel::Isa::kScalar, 8, true, std::nullopt);
  const auto isas = kernel::AvailableIsas();
  if (std::find(isas.begin(), isas.end(), kernel::Isa::kAvx2) != isas.end()) {
    add("rANS-B decode, 8 streams, AVX2 path", kernel::Isa::kAvx2, 8, true, KernelBar{2, 1.5});
    add("rANS-B encode, 8 streams, AVX2 path", kernel::Isa::kAvx2, 8, false, std::nullopt);
  }
  add("rANS-B encode, 1 stream", active, 1, false, std::nullopt);
  add("rANS-B encode, 4 streams", active, 4, false, std::nullopt);
  add("rANS-B encode, 8 streams", active, 8, false, KernelBar{9, 5.5});
  add("rANS-B encode, 8 streams, scalar path", kernel::Isa::kScalar, 8, false, std::nullopt);
}

void AddChainCases(std::vector<KernelCase>& cases, const std::shared_ptr<MemoryTiles>& tiles) {
  struct Chain {
    const char* name;
    const char* text;
    tensor::Side side;
  };
  constexpr Chain kChains[] = {
      {"affine 4 bits by channel + pack", "affine(bits=4,group=64,axis=channel) | pack", tensor::Side::kKey},
      {"affine 4 bits by token + pack", "affine(bits=4,group=64,axis=token) | pack", tensor::Side::kValue},
      {"levels 16 by channel + pack", "levels(m=16,axis=channel) | pack", tensor::Side::kKey},
  };
  for (const Chain& chain : kChains) {
    const auto chain_tiles = std::make_shared<ChainTiles>(tiles, chain.text, chain.side);
    cases.push_back({std::string(chain.name) + ", encode", "GB/s", tiles->bytes(),
                     [chain_tiles] { chain_tiles->Encode(); }, KernelBar{8, 6}});
    cases.push_back({std::string(chain.name) + ", decode", "GB/s", tiles->bytes(),
                     [chain_tiles] { chain_tiles->Decode(); }, KernelBar{14, 14}});
  }
}

// Pages of synthetic KV and a profile for it.
struct ProfiledPages {
  explicit ProfiledPages(uint64_t seed) {
    base::ThreadPool pool(1);
    SyntheticSpec spec;
    spec.geometry = {.layers = 1, .kv_heads = kHeads, .head_dim = kHeadDim};
    spec.seed = seed;
    auto fitted = FitGeneratorProfile(spec, pool, false);
    KVPLANE_CHECK(fitted.ok());
    profile = *std::move(fitted);
    std::vector<PagedKv> sequences;
    sequences.push_back(SyntheticKv(spec, pool));
    arena = std::make_unique<CodecArena>(std::move(sequences));
  }
  std::shared_ptr<const codec::ModelProfile> profile;
  std::unique_ptr<CodecArena> arena;
};

// A strategy as the product runs it, pages to coded tiles and back: what its kernels come to.
class StrategyTiles {
 public:
  StrategyTiles(std::shared_ptr<ProfiledPages> pages, std::string_view text) : pages_(std::move(pages)) {
    const auto strategy = codec::Strategy::Parse(text);
    KVPLANE_CHECK(strategy.ok());
    auto contestant =
        MakeStrategyContestant(*pages_->arena, 1, std::string(text), *strategy, pages_->profile);
    KVPLANE_CHECK(contestant.ok());
    contestant_ = *std::move(contestant);
    Encode();
  }
  double bytes() const { return static_cast<double>(pages_->arena->raw_bytes()); }
  void Encode() {
    for (size_t job = 0; job < jobs(); ++job) KVPLANE_CHECK(contestant_->Encode(job, 0).ok());
  }
  void Decode() {
    for (size_t job = 0; job < jobs(); ++job) KVPLANE_CHECK(contestant_->Decode(job, 0).ok());
  }

 private:
  size_t jobs() const { return pages_->arena->jobs().size(); }

  std::shared_ptr<ProfiledPages> pages_;
  std::unique_ptr<Contestant> contestant_;
};

}  // namespace

std::vector<KernelCase> CodecKernelCases(uint64_t seed) {
  base::Rng rng(seed);
  std::vector<KernelCase> cases;
  const auto tiles = std::make_shared<MemoryTiles>(rng.Split());
  cases.push_back({kMemcpy, "GB/s", tiles->bytes(),
                   [tiles] { std::memcpy(tiles->out.data(), tiles->in.data(), tiles->in.size_bytes()); },
                   std::nullopt});
  AddLevelCases(cases, rng);
  const auto fused = std::make_shared<FusedStreams>(tiles);
  cases.push_back({"fused encode, bf16 in DRAM to bytes", "GB/s", tiles->bytes(),
                   [fused] { fused->Encode(); }, KernelBar{9, 6.5}});
  cases.push_back({kFusedDecode, "GB/s", tiles->bytes(), [fused] { fused->Decode(); }, std::nullopt});
  const auto pages = std::make_shared<ProfiledPages>(seed);
  const auto preset = std::make_shared<StrategyTiles>(pages, "c11");
  cases.push_back(
      {"c11 by tiles, encode", "GB/s", preset->bytes(), [preset] { preset->Encode(); }, KernelBar{9, 6.5}});
  cases.push_back({kPresetDecode, "GB/s", preset->bytes(), [preset] { preset->Decode(); }, std::nullopt});
  const auto nested = std::make_shared<StrategyTiles>(pages, kNestedText);
  cases.push_back({"ternary, base and 2 refinements, encode", "GB/s", nested->bytes(),
                   [nested] { nested->Encode(); }, std::nullopt});
  cases.push_back({"ternary, base and 2 refinements, decode", "GB/s", nested->bytes(),
                   [nested] { nested->Decode(); }, std::nullopt});
  AddChainCases(cases, tiles);
  const auto rows = std::make_shared<RowTransforms>(rng.Split());
  cases.push_back({"projection 128 x 128", "Gval/s", RowTransforms::values(), [rows] { rows->Project(); },
                   KernelBar{2, 0.6}});
  cases.push_back(
      {"Hadamard 128", "Gval/s", RowTransforms::values(), [rows] { rows->Hadamard(); }, std::nullopt});
  return cases;
}

std::vector<KernelRatio> CodecKernelRatios() {
  return {{"rANS-B decode over the scalar path", kDecodeLevels, kDecodeScalar, {5, 3}},
          {"fused decode over memcpy", kFusedDecode, kMemcpy, {0.9, 0.55}},
          {"c11 by tiles, decode over memcpy", kPresetDecode, kMemcpy, {0.9, 0.55}}};
}

}  // namespace kvplane::cli
