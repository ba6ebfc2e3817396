#include "kvplane/engine/run_object.h"

#include <fmt/format.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "kvplane/codec/object_layout.h"

namespace kvplane::engine {
namespace {

codec::ObjectInfo InfoOf(const RunShape& shape, const store::StoreKey& key, uint32_t run) {
  codec::ObjectInfo info;
  info.geometry = shape.geometry;
  info.first_token = run * shape.run_tokens;
  info.tokens = shape.run_tokens;
  info.identity.model_fingerprint = shape.model_fingerprint;
  info.identity.token_chain = key.chain;
  info.identity.rope = shape.rope;
  return info;
}

tensor::TileView ViewOf(const codec::ObjectInfo& info, const codec::TileRef& tile,
                        const tensor::LayerPages& pages) {
  const codec::TileShape shape = codec::ShapeOf(info, tile);
  return tensor::MakeTileView(pages, tile.side, info.first_token + tile.token_tile * tensor::kTileTokens,
                              shape.tokens, tile.head_group * info.heads_per_tile(), shape.heads,
                              shape.head_dim);
}

// The coded tiles of one layer, back to back in `bytes`.
base::Status EncodeLayer(const codec::ObjectInfo& info, const RunCoding& coding, uint32_t layer,
                         const tensor::LayerPages& pages, codec::Workspace& workspace,
                         std::vector<std::byte>& bytes, std::vector<std::span<const std::byte>>& tiles) {
  const codec::TileShape full = codec::ShapeOf(info, codec::TileRef{});
  const size_t bound =
      std::max(coding.codecs[0]->MaxEncodedBytes(full), coding.codecs[1]->MaxEncodedBytes(full));
  bytes.resize(bound * info.tiles_per_layer());
  tiles.clear();
  size_t at = 0;
  for (size_t i = 0; i < info.tiles_per_layer(); ++i) {
    const codec::TileRef tile = codec::TileAt(info, i);
    const auto& codec = coding.codecs[static_cast<size_t>(tile.side)];
    KVPLANE_ASSIGN_OR_RETURN(
        const size_t written,
        codec->Encode(tensor::AsConst(ViewOf(info, tile, pages)), workspace,
                      std::span(bytes).subspan(at, bound), codec::ContextOf(info, layer, tile)));
    tiles.push_back(std::span<const std::byte>(bytes).subspan(at, written));
    at += written;
  }
  return base::Status::Ok();
}

}  // namespace

uint64_t RunShape::most_prefix_bytes() const {
  return codec::layout::PrefixBytes(2 * codec::kMaxStrategyTextBytes, geometry.layers);
}

uint64_t RunShape::most_object_bytes() const {
  codec::ObjectInfo info;
  info.geometry = geometry;
  info.tokens = run_tokens;
  info.head_group = 1;  // the most tiles
  return most_prefix_bytes() + codec::MaxObjectBytes(info);
}

std::array<std::byte, 16> RopeHash(const model::RopeConfig& rope) {
  const std::string text = fmt::format(
      "kvplane rope 1:{} theta={} factor={} low={} high={} fast={} slow={} attention={} truncate={} "
      "original={}",
      model::Name(rope.type), rope.theta, rope.factor, rope.low_freq_factor, rope.high_freq_factor,
      rope.beta_fast, rope.beta_slow, rope.attention_factor, rope.truncate, rope.original_context);
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  ::SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  std::array<std::byte, 16> half;
  std::memcpy(half.data(), digest.data(), half.size());
  return half;
}

base::Result<RunCoding> BindRunCoding(const codec::Strategy& strategy,
                                      std::shared_ptr<const codec::ModelProfile> profile) {
  RunCoding coding{.strategy = strategy, .profile = std::move(profile), .codecs = {}};
  for (const tensor::Side side : tensor::kSides) {
    KVPLANE_ASSIGN_OR_RETURN(coding.codecs[static_cast<size_t>(side)],
                             codec::TileCodec::Create(strategy.side(side), side, coding.profile));
  }
  return coding;
}

base::Result<std::vector<std::byte>> EncodeRun(const RunShape& shape, const RunCoding& coding,
                                               const store::StoreKey& key, uint32_t run,
                                               const PinnedPages& pages, codec::Workspace& workspace) {
  codec::ObjectInfo info = InfoOf(shape, key, run);
  info.strategy = coding.strategy;
  KVPLANE_ASSIGN_OR_RETURN(codec::ObjectWriter writer, codec::ObjectWriter::Create(info, coding.profile));
  std::vector<std::byte> bytes;
  std::vector<std::span<const std::byte>> tiles;
  for (uint32_t layer = 0; layer < shape.geometry.layers; ++layer) {
    KVPLANE_RETURN_IF_ERROR(EncodeLayer(info, coding, layer, pages.layer(layer), workspace, bytes, tiles));
    KVPLANE_RETURN_IF_ERROR(writer.AppendCodedLayer(tiles));
  }
  return writer.Finish();
}

base::Status CheckRun(const codec::ObjectInfo& info, const RunShape& shape, const store::StoreKey& key,
                      uint32_t run) {
  const codec::ObjectInfo expected = InfoOf(shape, key, run);
  std::string_view differs;
  if (info.identity.model_fingerprint != expected.identity.model_fingerprint) {
    differs = "model";
  } else if (info.identity.token_chain != expected.identity.token_chain) {
    differs = "token chain";
  } else if (info.identity.rope != expected.identity.rope) {
    differs = "rotary embedding";
  } else if (!(info.geometry == expected.geometry)) {
    differs = "geometry";
  } else if (info.first_token != expected.first_token || info.tokens != expected.tokens) {
    differs = "token range";
  }
  if (differs.empty()) return base::Status::Ok();
  return base::FailedPrecondition("the stored object of run {} is of another {}", run, differs);
}

base::Status DecodeRunLayer(const codec::ObjectReader& reader, uint32_t layer,
                            std::span<const std::byte> section, uint32_t run, const PinnedPages& pages,
                            codec::Workspace& workspace) {
  const codec::ObjectInfo& info = reader.info();
  KVPLANE_CHECK(info.first_token == run * info.tokens);
  KVPLANE_ASSIGN_OR_RETURN(const codec::LayerSection opened, reader.OpenLayer(layer, section));
  for (size_t i = 0; i < opened.tiles(); ++i) {
    const codec::TileRef tile = codec::TileAt(info, i);
    const tensor::TileView view = ViewOf(info, tile, pages.layer(layer));
    KVPLANE_RETURN_IF_ERROR(reader.DecodeTile(opened, tile, workspace, view)
                                .Annotate(fmt::format("layer {}, tile {}", layer, i)));
  }
  return base::Status::Ok();
}

}  // namespace kvplane::engine
