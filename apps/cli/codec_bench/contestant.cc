#include "apps/cli/codec_bench/contestant.h"

#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kvplane/codec/tile_codec.h"

namespace kvplane::cli {
namespace {

// What a tile costs beside its coded bytes, in objects: its index entry.
constexpr uint64_t kTileIndexBytes = 8;
// Piece in which zstd and lz4 see the raw bytes: about that of a tile.
constexpr size_t kPieceBytes = 128 << 10;
constexpr int kZstdLevel = 1;

class MemcpyContestant final : public Contestant {
 public:
  explicit MemcpyContestant(CodecArena& arena) : Contestant("memcpy"), arena_(arena) {}
  bool two_way() const override { return false; }
  std::array<uint64_t, 2> coded_bytes() const override { return {}; }
  base::Status Encode(size_t job, size_t) override {
    const std::span<const std::byte> from = arena_.RawInput(job);
    std::memcpy(arena_.RawOutput(job).data(), from.data(), from.size());
    return base::Status::Ok();
  }
  base::Status Decode(size_t, size_t) override { return base::Status::Ok(); }

 private:
  CodecArena& arena_;
};

class CrcContestant final : public Contestant {
 public:
  explicit CrcContestant(CodecArena& arena)
      : Contestant("crc32c"), arena_(arena), sums_(arena.jobs().size()) {}
  bool two_way() const override { return false; }
  std::array<uint64_t, 2> coded_bytes() const override { return {}; }
  base::Status Encode(size_t job, size_t) override {
    sums_[job] = codec::TileCrc(arena_.RawInput(job));
    return base::Status::Ok();
  }
  base::Status Decode(size_t, size_t) override { return base::Status::Ok(); }

 private:
  CodecArena& arena_;
  std::vector<uint32_t> sums_;  // keeps the work from being optimised away
};

// A general-purpose compressor over pieces of the raw bytes.
class ByteContestant : public Contestant {
 public:
  ByteContestant(std::string name, CodecArena& arena)
      : Contestant(std::move(name)), arena_(arena), piece_bytes_(arena.jobs().size()) {}

  std::array<uint64_t, 2> coded_bytes() const override {
    uint64_t bytes = 0;
    for (const std::vector<size_t>& pieces : piece_bytes_) {
      for (const size_t piece : pieces) bytes += piece + kTileIndexBytes;
    }
    return {bytes / 2, bytes - bytes / 2};
  }

  base::Status Encode(size_t job, size_t worker) override {
    const std::span<const std::byte> raw = arena_.RawInput(job);
    std::span<std::byte> room = arena_.Slot(job);
    piece_bytes_[job].clear();
    for (size_t at = 0; at < raw.size(); at += kPieceBytes) {
      const size_t coded = Compress(raw.subspan(at, std::min(kPieceBytes, raw.size() - at)), room, worker);
      if (coded == 0) return base::Internal("{}: compression failed", name());
      piece_bytes_[job].push_back(coded);
      room = room.subspan(coded);
    }
    return base::Status::Ok();
  }

  base::Status Decode(size_t job, size_t worker) override {
    const std::span<std::byte> raw = arena_.RawOutput(job);
    std::span<const std::byte> coded = arena_.Slot(job);
    size_t at = 0;
    for (const size_t piece : piece_bytes_[job]) {
      const auto out = raw.subspan(at, std::min(kPieceBytes, raw.size() - at));
      if (!Decompress(coded.first(piece), out, worker))
        return base::Internal("{}: decompression failed", name());
      coded = coded.subspan(piece);
      at += out.size();
    }
    return base::Status::Ok();
  }

 private:
  // Bytes written, 0 on failure.
  virtual size_t Compress(std::span<const std::byte> in, std::span<std::byte> out, size_t worker) = 0;
  virtual bool Decompress(std::span<const std::byte> in, std::span<std::byte> out, size_t worker) = 0;

  CodecArena& arena_;
  std::vector<std::vector<size_t>> piece_bytes_;  // [jobs][pieces]
};

class ZstdContestant final : public ByteContestant {
 public:
  ZstdContestant(CodecArena& arena, size_t workers) : ByteContestant("zstd -1", arena) {
    for (size_t i = 0; i < workers; ++i) {
      compressors_.emplace_back(ZSTD_createCCtx());
      decompressors_.emplace_back(ZSTD_createDCtx());
    }
  }

 private:
  struct Free {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  size_t Compress(std::span<const std::byte> in, std::span<std::byte> out, size_t worker) override {
    const size_t n = ZSTD_compressCCtx(compressors_[worker].get(), out.data(), out.size(), in.data(),
                                       in.size(), kZstdLevel);
    return ZSTD_isError(n) != 0 ? 0 : n;
  }
  bool Decompress(std::span<const std::byte> in, std::span<std::byte> out, size_t worker) override {
    return ZSTD_decompressDCtx(decompressors_[worker].get(), out.data(), out.size(), in.data(), in.size()) ==
           out.size();
  }
  std::vector<std::unique_ptr<ZSTD_CCtx, Free>> compressors_;    // [workers]
  std::vector<std::unique_ptr<ZSTD_DCtx, Free>> decompressors_;  // [workers]
};

class Lz4Contestant final : public ByteContestant {
 public:
  Lz4Contestant(CodecArena& arena, size_t workers)
      : ByteContestant("lz4", arena),
        states_(workers, std::vector<char>(static_cast<size_t>(LZ4_sizeofState()))) {}

 private:
  size_t Compress(std::span<const std::byte> in, std::span<std::byte> out, size_t worker) override {
    const size_t room =
        std::min(out.size(), static_cast<size_t>(LZ4_compressBound(static_cast<int>(in.size()))));
    const int n = LZ4_compress_fast_extState(states_[worker].data(), reinterpret_cast<const char*>(in.data()),
                                             reinterpret_cast<char*>(out.data()), static_cast<int>(in.size()),
                                             static_cast<int>(room), 1);
    return n > 0 ? static_cast<size_t>(n) : 0;
  }
  bool Decompress(std::span<const std::byte> in, std::span<std::byte> out, size_t) override {
    return LZ4_decompress_safe(reinterpret_cast<const char*>(in.data()), reinterpret_cast<char*>(out.data()),
                               static_cast<int>(in.size()),
                               static_cast<int>(out.size())) == static_cast<int>(out.size());
  }
  std::vector<std::vector<char>> states_;  // [workers]; operator new aligns them enough for lz4
};

class StrategyContestant final : public Contestant {
 public:
  StrategyContestant(CodecArena& arena, size_t workers, std::string name, const codec::Strategy& strategy,
                     std::array<std::shared_ptr<const codec::TileCodec>, 2> codecs)
      : Contestant(std::move(name)),
        arena_(arena),
        strategy_(strategy),
        codecs_(std::move(codecs)),
        workspaces_(workers),
        tile_bytes_(arena.jobs().size()) {}

  const codec::Strategy* strategy() const override { return &strategy_; }

  std::array<uint64_t, 2> coded_bytes() const override {
    std::array<uint64_t, 2> bytes{};
    for (const std::vector<size_t>& tiles : tile_bytes_) {
      for (size_t i = 0; i < tiles.size(); ++i) bytes[2 * i / tiles.size()] += tiles[i] + kTileIndexBytes;
    }
    return bytes;
  }

  base::Status Encode(size_t job, size_t worker) override {
    std::span<std::byte> room = arena_.Slot(job);
    tile_bytes_[job].resize(arena_.tiles(job));
    for (size_t i = 0; i < tile_bytes_[job].size(); ++i) {
      const CodecArena::Tile tile = arena_.TileOf(job, i);
      KVPLANE_ASSIGN_OR_RETURN(tile_bytes_[job][i],
                               codecs_[static_cast<size_t>(tile.side)]->Encode(
                                   tensor::AsConst(tile.input), workspaces_[worker], room, tile.context));
      room = room.subspan(tile_bytes_[job][i]);
    }
    return base::Status::Ok();
  }

  base::Status Decode(size_t job, size_t worker) override {
    std::span<const std::byte> coded = arena_.Slot(job);
    for (size_t i = 0; i < tile_bytes_[job].size(); ++i) {
      const CodecArena::Tile tile = arena_.TileOf(job, i);
      KVPLANE_RETURN_IF_ERROR(codecs_[static_cast<size_t>(tile.side)]->Decode(
          coded.first(tile_bytes_[job][i]), workspaces_[worker], tile.output, tile.context));
      coded = coded.subspan(tile_bytes_[job][i]);
    }
    return base::Status::Ok();
  }

 private:
  CodecArena& arena_;
  codec::Strategy strategy_;
  std::array<std::shared_ptr<const codec::TileCodec>, 2> codecs_;
  std::vector<codec::Workspace> workspaces_;     // [workers]
  std::vector<std::vector<size_t>> tile_bytes_;  // [jobs][tiles]
};

}  // namespace

std::unique_ptr<Contestant> MakeMemcpyContestant(CodecArena& arena) {
  return std::make_unique<MemcpyContestant>(arena);
}

std::unique_ptr<Contestant> MakeCrcContestant(CodecArena& arena) {
  return std::make_unique<CrcContestant>(arena);
}

std::unique_ptr<Contestant> MakeZstdContestant(CodecArena& arena, size_t workers) {
  return std::make_unique<ZstdContestant>(arena, workers);
}

std::unique_ptr<Contestant> MakeLz4Contestant(CodecArena& arena, size_t workers) {
  return std::make_unique<Lz4Contestant>(arena, workers);
}

base::Result<std::unique_ptr<Contestant>> MakeStrategyContestant(
    CodecArena& arena, size_t workers, std::string name, const codec::Strategy& strategy,
    std::shared_ptr<const codec::ModelProfile> profile) {
  std::array<std::shared_ptr<const codec::TileCodec>, 2> codecs;
  for (const tensor::Side side : tensor::kSides) {
    KVPLANE_ASSIGN_OR_RETURN(codecs[static_cast<size_t>(side)],
                             codec::TileCodec::Create(strategy.side(side), side, profile));
  }
  return std::unique_ptr<Contestant>(
      std::make_unique<StrategyContestant>(arena, workers, std::move(name), strategy, std::move(codecs)));
}

}  // namespace kvplane::cli
