#include "apps/cli/codec_bench/codec_arena.h"

#include <algorithm>
#include <utility>

#include "kvplane/base/check.h"

namespace kvplane::cli {
namespace {

// A tile's method byte, and what lz4 and zstd may add to incompressible bytes (1/255 and less).
constexpr size_t kSlotShareForOverhead = 128;
constexpr size_t kSlotBytesForOverhead = 4096;

}  // namespace

CodecArena::CodecArena(std::vector<PagedKv> sequences, const std::array<uint8_t, 2>& quality)
    : quality_(quality), inputs_(std::move(sequences)) {
  KVPLANE_CHECK(!inputs_.empty());
  uint32_t longest = 0;
  for (uint32_t s = 0; s < inputs_.size(); ++s) {
    const PagedKv& kv = inputs_[s];
    KVPLANE_CHECK(kv.geometry() == geometry() && kv.tokens() > 0);
    outputs_.emplace_back(kv.geometry(), kv.tokens());
    raw_bytes_ += kv.geometry().bytes_per_token() * kv.tokens();
    longest = std::max(longest, std::min(kv.tokens(), kJobTokens));
    for (uint32_t layer = 0; layer < kv.geometry().layers; ++layer) {
      for (uint32_t t = 0; t < kv.tokens(); t += kJobTokens) {
        jobs_.push_back({s, layer, t, std::min(kJobTokens, kv.tokens() - t)});
      }
    }
  }
  const uint32_t blocks = (longest + PagedKv::kBlockTokens - 1) / PagedKv::kBlockTokens;
  const size_t raw = size_t{blocks} * PagedKv::kBlockTokens * geometry().bytes_per_token_layer();
  slot_bytes_ = raw + raw / kSlotShareForOverhead + kSlotBytesForOverhead;
  coded_.resize(slot_bytes_ * jobs_.size());
}

std::span<std::byte> CodecArena::Raw(std::vector<PagedKv>& from, size_t job) {
  const CodecJob& at = jobs_[job];
  static_assert(kJobTokens % PagedKv::kBlockTokens == 0);
  const uint32_t blocks = (at.tokens + PagedKv::kBlockTokens - 1) / PagedKv::kBlockTokens;
  return std::as_writable_bytes(
      from[at.sequence].blocks(at.layer, at.first_token / PagedKv::kBlockTokens, blocks));
}

std::span<const std::byte> CodecArena::RawInput(size_t job) { return Raw(inputs_, job); }
std::span<std::byte> CodecArena::RawOutput(size_t job) { return Raw(outputs_, job); }

std::span<std::byte> CodecArena::Slot(size_t job) {
  return std::span(coded_).subspan(job * slot_bytes_, slot_bytes_);
}

size_t CodecArena::tiles(size_t job) const {
  return 2 * ((jobs_[job].tokens + tensor::kTileTokens - 1) / tensor::kTileTokens);
}

CodecArena::Tile CodecArena::TileOf(size_t job, size_t tile) {
  const CodecJob& at = jobs_[job];
  const size_t per_side = tiles(job) / 2;
  const auto offset = static_cast<uint32_t>(tile % per_side) * tensor::kTileTokens;
  const uint32_t first = at.first_token + offset;
  const uint32_t tokens = std::min(tensor::kTileTokens, at.tokens - offset);
  const PagedKv& in = inputs_[at.sequence];
  const tensor::KvGeometry& shape = geometry();
  Tile out;
  out.side = tensor::kSides[tile / per_side];
  out.input =
      tensor::MakeTileView(in.layers()[at.layer], out.side, first, tokens, 0, shape.kv_heads, shape.head_dim);
  out.output = tensor::MakeTileView(outputs_[at.sequence].layers()[at.layer], out.side, first, tokens, 0,
                                    shape.kv_heads, shape.head_dim);
  out.context = {.layer = at.layer,
                 .layers = shape.layers,
                 .first_head = 0,
                 .kv_heads = shape.kv_heads,
                 .first_position = first,
                 .end_position = in.tokens(),
                 .quality = quality_[static_cast<size_t>(out.side)]};
  return out;
}

}  // namespace kvplane::cli
