// CodecArena: the memory all contestants of a codec benchmark share, so that each works on the same pages.
//
// The input sequences are cut into jobs: up to four tiles of tokens of one layer, both sides. A job is what a
// thread takes at a time; it has a slot of its own for coded bytes, so jobs run in any order on any thread.
//
// Thread safety: none by itself; different jobs touch different memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "apps/cli/kv_sample.h"
#include "kvplane/codec/tile_context.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::cli {

constexpr uint32_t kJobTokens = 4 * tensor::kTileTokens;

struct CodecJob {
  uint32_t sequence = 0;
  uint32_t layer = 0;
  uint32_t first_token = 0;
  uint32_t tokens = 0;
};

class CodecArena {
 public:
  // Takes the sequences over and makes as many output pages. Requires: at least one, of one geometry.
  // `quality`: the quality byte of tiles, by tensor::Side.
  explicit CodecArena(std::vector<PagedKv> sequences, const std::array<uint8_t, 2>& quality = {});

  const tensor::KvGeometry& geometry() const { return inputs_[0].geometry(); }
  std::span<const PagedKv> inputs() const { return inputs_; }
  std::span<const PagedKv> outputs() const { return outputs_; }
  std::span<const CodecJob> jobs() const { return jobs_; }
  uint64_t raw_bytes() const { return raw_bytes_; }  // of all sequences, bf16
  uint64_t raw_bytes(const CodecJob& job) const {
    return uint64_t{job.tokens} * geometry().bytes_per_token_layer();
  }

  // The memory of a job's pages in one piece, K and V; with the unused slots of its last page.
  std::span<const std::byte> RawInput(size_t job);
  std::span<std::byte> RawOutput(size_t job);
  // Where the job's coded bytes go: room for every tile at its largest, and for zstd's and lz4's worst.
  std::span<std::byte> Slot(size_t job);

  // Tiles of a job, in the order of (side, token tile).
  struct Tile {
    tensor::Side side = tensor::Side::kKey;
    tensor::TileView input;
    tensor::TileView output;
    codec::TileContext context;
  };
  size_t tiles(size_t job) const;
  Tile TileOf(size_t job, size_t tile);

 private:
  std::span<std::byte> Raw(std::vector<PagedKv>& from, size_t job);

  std::array<uint8_t, 2> quality_;
  std::vector<PagedKv> inputs_;
  std::vector<PagedKv> outputs_;
  std::vector<CodecJob> jobs_;
  uint64_t raw_bytes_ = 0;
  size_t slot_bytes_ = 0;
  std::vector<std::byte> coded_;
};

}  // namespace kvplane::cli
