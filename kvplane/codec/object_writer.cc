#include <string>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/codec/object.h"
#include "kvplane/codec/object_layout.h"
#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::codec {
namespace {

void PutBytes(std::byte* to, std::span<const std::byte> bytes) {
  std::memcpy(to, bytes.data(), bytes.size());
}

void PutText(std::byte* to, const std::string& text) { std::memcpy(to, text.data(), text.size()); }

}  // namespace

base::Result<ObjectWriter> ObjectWriter::Create(const ObjectInfo& info_in,
                                                std::shared_ptr<const ModelProfile> profile) {
  ObjectInfo info = info_in;
  KVPLANE_RETURN_IF_ERROR(info.Validate());
  if (profile != nullptr && info.strategy.needs_profile()) info.identity.profile = profile->id().bytes;
  std::array<std::shared_ptr<const TileCodec>, 2> codecs;
  for (const tensor::Side side : tensor::kSides) {
    KVPLANE_ASSIGN_OR_RETURN(codecs[static_cast<size_t>(side)],
                             TileCodec::Create(info.strategy.side(side), side, profile));
  }
  return ObjectWriter(info, std::move(codecs));
}

ObjectWriter::ObjectWriter(const ObjectInfo& info, std::array<std::shared_ptr<const TileCodec>, 2> codecs)
    : info_(info), codecs_(std::move(codecs)) {
  const size_t text_bytes = info.strategy.side(tensor::Side::kKey).ToString().size() +
                            info.strategy.side(tensor::Side::kValue).ToString().size();
  bytes_.resize(layout::PrefixBytes(text_bytes, info.geometry.layers));
  std::byte* out = bytes_.data();
  PutBytes(out + layout::kAtModelFingerprint, info_.identity.model_fingerprint);
  PutBytes(out + layout::kAtTokenChain, info_.identity.token_chain);
  PutBytes(out + layout::kAtRope, info_.identity.rope);
  PutBytes(out + layout::kAtProfile, info_.identity.profile);
  PutBytes(out + layout::kAtStrategyId, info_.strategy.id().bytes);
}

void ObjectWriter::BeginLayer() {
  layer_begin_ = bytes_.size();
  bytes_.resize(layer_begin_ + layout::IndexBytes(info_.tiles_per_layer()));
}

// The tile `index` of the current layer is [begin, end) of the bytes.
void ObjectWriter::EndTile(size_t index, size_t begin) {
  const auto coded = std::span<const std::byte>(bytes_).subspan(begin);
  std::byte* entry = bytes_.data() + layer_begin_ + index * layout::kIndexEntryBytes;
  base::StoreLe(entry, static_cast<uint32_t>(coded.size()));
  base::StoreLe(entry + 4, TileCrc(coded));
}

void ObjectWriter::EndLayer() {
  const size_t crc_at = layer_begin_ + info_.tiles_per_layer() * layout::kIndexEntryBytes;
  const auto index = std::span<const std::byte>(bytes_).subspan(layer_begin_, crc_at - layer_begin_);
  const auto identity =
      std::span<const std::byte>(bytes_).subspan(kObjectHeaderBytes, layout::kIdentityBytes);
  base::StoreLe(bytes_.data() + crc_at, layout::IndexCrc(identity, layers_written(), index));
  directory_.push_back({layer_begin_, bytes_.size() - layer_begin_});
}

base::Status ObjectWriter::AppendLayer(const tensor::LayerPages& pages, Workspace& workspace) {
  if (layers_written() == info_.geometry.layers) {
    return base::FailedPrecondition("object: all {} layers are written", info_.geometry.layers);
  }
  if (pages.format.block_tokens == 0 || pages.pages.size() * pages.format.block_tokens < info_.tokens) {
    return base::InvalidArgument("object: {} pages of {} tokens do not cover {} tokens", pages.pages.size(),
                                 pages.format.block_tokens, info_.tokens);
  }
  BeginLayer();
  for (size_t i = 0; i < info_.tiles_per_layer(); ++i) {
    const TileRef tile = TileAt(info_, i);
    const TileShape shape = ShapeOf(info_, tile);
    const tensor::TileView view =
        tensor::MakeTileView(pages, tile.side, tile.token_tile * tensor::kTileTokens, shape.tokens,
                             tile.head_group * info_.heads_per_tile(), shape.heads, shape.head_dim);
    const TileCodec& codec = *codecs_[static_cast<size_t>(tile.side)];
    const size_t begin = bytes_.size();
    bytes_.resize(begin + codec.MaxEncodedBytes(shape));
    const base::Result<size_t> coded =
        codec.Encode(tensor::AsConst(view), workspace, std::span(bytes_).subspan(begin),
                     ContextOf(info_, layers_written(), tile));
    if (!coded.ok()) {
      bytes_.resize(layer_begin_);
      return coded.status();
    }
    bytes_.resize(begin + *coded);
    EndTile(i, begin);
  }
  EndLayer();
  return base::Status::Ok();
}

base::Status ObjectWriter::AppendCodedLayer(std::span<const std::span<const std::byte>> tiles) {
  if (layers_written() == info_.geometry.layers) {
    return base::FailedPrecondition("object: all {} layers are written", info_.geometry.layers);
  }
  if (tiles.size() != info_.tiles_per_layer()) {
    return base::InvalidArgument("object: {} tiles for a layer of {}", tiles.size(), info_.tiles_per_layer());
  }
  for (size_t i = 0; i < tiles.size(); ++i) {
    const TileRef tile = TileAt(info_, i);
    const TileCodec& codec = *codecs_[static_cast<size_t>(tile.side)];
    if (tiles[i].empty() || tiles[i].size() > codec.MaxEncodedBytes(ShapeOf(info_, tile))) {
      return base::InvalidArgument("object: tile {} has {} bytes", i, tiles[i].size());
    }
  }
  BeginLayer();
  for (size_t i = 0; i < tiles.size(); ++i) {
    const size_t begin = bytes_.size();
    bytes_.insert(bytes_.end(), tiles[i].begin(), tiles[i].end());
    EndTile(i, begin);
  }
  EndLayer();
  return base::Status::Ok();
}

base::Result<std::vector<std::byte>> ObjectWriter::Finish() {
  if (layers_written() != info_.geometry.layers) {
    return base::FailedPrecondition("object: {} of {} layers are written", layers_written(),
                                    info_.geometry.layers);
  }
  if (bytes_.empty()) return base::FailedPrecondition("object: it has been finished before");
  const std::string key = info_.strategy.side(tensor::Side::kKey).ToString();
  const std::string value = info_.strategy.side(tensor::Side::kValue).ToString();
  const size_t prefix_bytes = layout::PrefixBytes(key.size() + value.size(), info_.geometry.layers);
  std::byte* out = bytes_.data();
  base::StoreLe(out + layout::kAtMagic, layout::kMagic);
  base::StoreLe(out + layout::kAtMajor, kObjectMajor);
  base::StoreLe(out + layout::kAtMinor, kObjectMinor);
  base::StoreLe(out + layout::kAtFlags, info_.strategy.lossy() ? layout::kFlagLossy : uint16_t{0});
  base::StoreLe(out + layout::kAtDType, info_.geometry.dtype);
  base::StoreLe(out + layout::kAtQualityKey, info_.quality[0]);
  base::StoreLe(out + layout::kAtQualityValue, info_.quality[1]);
  base::StoreLe(out + layout::kAtLayers, static_cast<uint16_t>(info_.geometry.layers));
  base::StoreLe(out + layout::kAtKvHeads, static_cast<uint16_t>(info_.geometry.kv_heads));
  base::StoreLe(out + layout::kAtHeadDim, static_cast<uint16_t>(info_.geometry.head_dim));
  base::StoreLe(out + layout::kAtHeadGroup, static_cast<uint16_t>(info_.heads_per_tile()));
  base::StoreLe(out + layout::kAtFirstToken, info_.first_token);
  base::StoreLe(out + layout::kAtTokens, info_.tokens);
  base::StoreLe(out + layout::kAtTileTokens, static_cast<uint16_t>(tensor::kTileTokens));
  base::StoreLe(out + layout::kAtKeyStrategyBytes, static_cast<uint16_t>(key.size()));
  base::StoreLe(out + layout::kAtValueStrategyBytes, static_cast<uint16_t>(value.size()));
  base::StoreLe(out + layout::kAtPrefixBytes, static_cast<uint32_t>(prefix_bytes));
  base::StoreLe(out + layout::kAtObjectBytes, static_cast<uint64_t>(bytes_.size()));
  base::StoreLe(out + layout::kAtHeaderCrc, kernel::Crc32c({out, layout::kAtHeaderCrc}));

  PutText(out + layout::kAtStrategyText, key);
  PutText(out + layout::kAtStrategyText + key.size(), value);
  std::byte* entry = out + layout::kAtStrategyText + key.size() + value.size();
  for (const LayerSpan& layer : directory_) {
    base::StoreLe(entry, layer.offset);
    base::StoreLe(entry + 8, layer.bytes);
    entry += layout::kDirectoryEntryBytes;
  }
  const std::byte* covered = out + kObjectHeaderBytes;
  base::StoreLe(entry, kernel::Crc32c({covered, static_cast<size_t>(entry - covered)}));
  // It has grown by doubling; who keeps it is charged for its size.
  bytes_.shrink_to_fit();
  return std::exchange(bytes_, {});
}

}  // namespace kvplane::codec
