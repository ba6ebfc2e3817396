#include <algorithm>
#include <cstring>
#include <string_view>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/codec/object.h"
#include "kvplane/codec/object_layout.h"
#include "kvplane/codec/profile_match.h"
#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::codec {
namespace {

// The header's fields as read; checked by CheckHeader() before use.
struct Header {
  uint16_t flags, layers, kv_heads, head_dim, head_group, tile_tokens, key_bytes, value_bytes;
  uint8_t major, minor, dtype, quality_key, quality_value;
  uint32_t magic, first_token, tokens, prefix_bytes, crc;
  uint64_t object_bytes;
};

Header LoadHeader(const std::byte* in) {
  Header h{};
  h.magic = base::LoadLe<uint32_t>(in + layout::kAtMagic);
  h.major = base::LoadLe<uint8_t>(in + layout::kAtMajor);
  h.minor = base::LoadLe<uint8_t>(in + layout::kAtMinor);
  h.flags = base::LoadLe<uint16_t>(in + layout::kAtFlags);
  h.dtype = base::LoadLe<uint8_t>(in + layout::kAtDType);
  h.quality_key = base::LoadLe<uint8_t>(in + layout::kAtQualityKey);
  h.quality_value = base::LoadLe<uint8_t>(in + layout::kAtQualityValue);
  h.layers = base::LoadLe<uint16_t>(in + layout::kAtLayers);
  h.kv_heads = base::LoadLe<uint16_t>(in + layout::kAtKvHeads);
  h.head_dim = base::LoadLe<uint16_t>(in + layout::kAtHeadDim);
  h.head_group = base::LoadLe<uint16_t>(in + layout::kAtHeadGroup);
  h.first_token = base::LoadLe<uint32_t>(in + layout::kAtFirstToken);
  h.tokens = base::LoadLe<uint32_t>(in + layout::kAtTokens);
  h.tile_tokens = base::LoadLe<uint16_t>(in + layout::kAtTileTokens);
  h.key_bytes = base::LoadLe<uint16_t>(in + layout::kAtKeyStrategyBytes);
  h.value_bytes = base::LoadLe<uint16_t>(in + layout::kAtValueStrategyBytes);
  h.prefix_bytes = base::LoadLe<uint32_t>(in + layout::kAtPrefixBytes);
  h.object_bytes = base::LoadLe<uint64_t>(in + layout::kAtObjectBytes);
  h.crc = base::LoadLe<uint32_t>(in + layout::kAtHeaderCrc);
  return h;
}

// Everything that can be said of the header alone.
base::Result<Header> CheckedHeader(std::span<const std::byte> bytes) {
  if (bytes.size() < kObjectHeaderBytes) {
    return base::Corrupt("object: {} bytes, a header has {}", bytes.size(), kObjectHeaderBytes);
  }
  const Header h = LoadHeader(bytes.data());
  if (h.magic != layout::kMagic) return base::Corrupt("object: no KVPO magic at its beginning");
  if (h.major != kObjectMajor) {
    return base::Unimplemented("object: major version {}, this build reads {}", h.major, kObjectMajor);
  }
  if (kernel::Crc32c(bytes.first(layout::kAtHeaderCrc)) != h.crc) {
    return base::Corrupt("object: CRC32C of the header does not match");
  }
  const auto unknown = static_cast<uint16_t>(h.flags & layout::kCriticalFlags & ~layout::kKnownCriticalFlags);
  if (unknown != 0) return base::Unimplemented("object: unknown critical flags {:#06x}", unknown);
  if (h.tile_tokens != tensor::kTileTokens) {
    return base::Unimplemented("object: tiles of {} tokens, this build reads {}", h.tile_tokens,
                               tensor::kTileTokens);
  }
  if (h.key_bytes > kMaxStrategyTextBytes || h.value_bytes > kMaxStrategyTextBytes ||
      h.layers > kMaxObjectLayers ||
      h.prefix_bytes != layout::PrefixBytes(size_t{h.key_bytes} + h.value_bytes, h.layers)) {
    return base::Corrupt(
        "object: a prefix of {} bytes contradicts {} layers and strategies of {} and {} bytes",
        h.prefix_bytes, h.layers, h.key_bytes, h.value_bytes);
  }
  if (h.object_bytes < h.prefix_bytes) {
    return base::Corrupt("object: {} bytes in all, {} in its prefix", h.object_bytes, h.prefix_bytes);
  }
  return h;
}

ObjectIdentity ReadIdentity(const std::byte* in) {
  ObjectIdentity identity;
  const auto copy = [in](auto& to, size_t at) { std::memcpy(to.data(), in + at, to.size()); };
  copy(identity.model_fingerprint, layout::kAtModelFingerprint);
  copy(identity.token_chain, layout::kAtTokenChain);
  copy(identity.rope, layout::kAtRope);
  copy(identity.profile, layout::kAtProfile);
  return identity;
}

base::Result<SideStrategy> ReadStrategy(std::span<const std::byte> text, tensor::Side side) {
  const base::Result<SideStrategy> strategy =
      SideStrategy::ParseCanonical({reinterpret_cast<const char*>(text.data()), text.size()}, side);
  if (!strategy.ok()) {
    // A stage of a later build is the likely reason: the bytes are whole (their CRC has matched).
    return base::Unimplemented("object: strategy of side {}: {}", side == tensor::Side::kKey ? "k" : "v",
                               strategy.status().message());
  }
  return strategy;
}

// What a coded tile takes at least, whatever its chain: that of an object whose profile is not there.
uint64_t SmallestTile(const TileShape& shape) { return 1 + shape.raw_bytes() / kMaxTileRatio; }

// What the section of a layer takes at least. It ties the geometry an object claims to bytes that are there.
uint64_t SmallestSection(const ObjectInfo& info,
                         const std::array<std::shared_ptr<const TileCodec>, 2>& codecs) {
  const TileShape last = ShapeOf(info, {.token_tile = info.token_tiles() - 1});
  const TileShape full = {tensor::kTileTokens, last.heads, last.head_dim};
  uint64_t bytes = layout::IndexBytes(info.tiles_per_layer());
  for (const auto& codec : codecs) {
    const auto least = [&codec](const TileShape& shape) {
      return codec == nullptr ? SmallestTile(shape) : uint64_t{codec->MinEncodedBytes(shape)};
    };
    bytes += info.head_groups() * (uint64_t{info.token_tiles() - 1} * least(full) + least(last));
  }
  return bytes;
}

// Null for sides whose profile is not there. An id stands for one profile with one geometry, so an object of
// another geometry that names it is no object at all.
base::Result<std::array<std::shared_ptr<const TileCodec>, 2>> BindCodecs(const ObjectInfo& info,
                                                                         const ProfileSet* profiles) {
  const ProfileId id{info.identity.profile};
  if (info.strategy.needs_profile() && id.none()) {
    return base::Corrupt("object: its strategy needs a profile, its identity names none");
  }
  const std::shared_ptr<const ModelProfile> profile = profiles == nullptr ? nullptr : profiles->Find(id);
  if (info.strategy.needs_profile() && profile != nullptr) {
    const base::Status fits = CheckProfileMatches(*profile, info.geometry, {});
    if (!fits.ok()) return base::Corrupt("object: {}", fits.message());
  }
  std::array<std::shared_ptr<const TileCodec>, 2> codecs;
  for (const tensor::Side side : tensor::kSides) {
    const SideStrategy& strategy = info.strategy.side(side);
    if (strategy.needs_profile() && profile == nullptr) continue;
    KVPLANE_ASSIGN_OR_RETURN(codecs[static_cast<size_t>(side)], TileCodec::Create(strategy, side, profile));
  }
  return codecs;
}

// Sections follow the prefix without gaps and end with the object.
base::Result<std::vector<ObjectReader::Range>> ReadDirectory(const std::byte* in, const Header& h,
                                                             uint64_t smallest_section) {
  std::vector<ObjectReader::Range> directory(h.layers);
  uint64_t at = h.prefix_bytes;
  for (uint32_t i = 0; i < h.layers; ++i, in += layout::kDirectoryEntryBytes) {
    const auto offset = base::LoadLe<uint64_t>(in);
    const auto bytes = base::LoadLe<uint64_t>(in + 8);
    if (offset != at || bytes > h.object_bytes - at || bytes < smallest_section) {
      return base::Corrupt("object: directory entry of layer {} ({} bytes at {}) is impossible", i, bytes,
                           offset);
    }
    directory[i] = {offset, bytes};
    at += bytes;
  }
  if (at != h.object_bytes) {
    return base::Corrupt("object: its layers end at {}, the object at {}", at, h.object_bytes);
  }
  return directory;
}

}  // namespace

base::Result<size_t> ObjectReader::PrefixBytes(std::span<const std::byte> header) {
  KVPLANE_ASSIGN_OR_RETURN(const Header h, CheckedHeader(header));
  return size_t{h.prefix_bytes};
}

base::Result<ObjectReader> ObjectReader::Open(std::span<const std::byte> bytes, const OpenOptions& options) {
  KVPLANE_ASSIGN_OR_RETURN(const Header h, CheckedHeader(bytes));
  if (bytes.size() < h.prefix_bytes) {
    return base::Corrupt("object: {} bytes of a prefix of {}", bytes.size(), h.prefix_bytes);
  }
  const size_t crc_at = h.prefix_bytes - layout::kCrcBytes;
  const auto covered = bytes.subspan(kObjectHeaderBytes, crc_at - kObjectHeaderBytes);
  if (kernel::Crc32c(covered) != base::LoadLe<uint32_t>(bytes.data() + crc_at)) {
    return base::Corrupt("object: CRC32C of the prefix does not match");
  }
  ObjectReader reader;
  ObjectInfo& info = reader.info_;
  KVPLANE_ASSIGN_OR_RETURN(info.geometry.dtype, tensor::DTypeFromWire(h.dtype));
  info.geometry.layers = h.layers;
  info.geometry.kv_heads = h.kv_heads;
  info.geometry.head_dim = h.head_dim;
  info.first_token = h.first_token;
  info.tokens = h.tokens;
  info.head_group = h.head_group;
  info.quality[0] = h.quality_key;
  info.quality[1] = h.quality_value;
  if (h.head_group == 0) return base::Corrupt("object: head group 0");
  if (const base::Status valid = info.Validate(); !valid.ok()) return base::Corrupt("{}", valid.message());
  info.identity = ReadIdentity(bytes.data());
  std::memcpy(reader.identity_bytes_.data(), bytes.data() + kObjectHeaderBytes, layout::kIdentityBytes);

  const auto key_text = bytes.subspan(layout::kAtStrategyText, h.key_bytes);
  const auto value_text = bytes.subspan(layout::kAtStrategyText + h.key_bytes, h.value_bytes);
  KVPLANE_ASSIGN_OR_RETURN(SideStrategy key, ReadStrategy(key_text, tensor::Side::kKey));
  KVPLANE_ASSIGN_OR_RETURN(SideStrategy value, ReadStrategy(value_text, tensor::Side::kValue));
  info.strategy = Strategy(std::move(key), std::move(value));
  const StrategyId id = info.strategy.id();
  if (std::memcmp(id.bytes.data(), bytes.data() + layout::kAtStrategyId, id.bytes.size()) != 0) {
    return base::Corrupt("object: strategy id and text disagree");
  }
  const bool lossy = (h.flags & layout::kFlagLossy) != 0;
  if (lossy != info.strategy.lossy()) return base::Corrupt("object: lossy flag and strategy disagree");
  if (lossy && !options.accept_lossy) {
    return base::FailedPrecondition("object: coded lossily by '{}', a lossless one is required",
                                    info.strategy.ToString());
  }
  KVPLANE_ASSIGN_OR_RETURN(reader.codecs_, BindCodecs(info, options.profiles));
  const std::byte* directory = bytes.data() + layout::kAtStrategyText + h.key_bytes + h.value_bytes;
  KVPLANE_ASSIGN_OR_RETURN(reader.directory_,
                           ReadDirectory(directory, h, SmallestSection(info, reader.codecs_)));
  reader.minor_version_ = h.minor;
  reader.prefix_bytes_ = h.prefix_bytes;
  reader.object_bytes_ = h.object_bytes;
  return reader;
}

base::Result<LayerSection> ObjectReader::OpenLayer(uint32_t layer, std::span<const std::byte> section) const {
  if (layer >= info_.geometry.layers) {
    return base::InvalidArgument("object: layer {} of {}", layer, info_.geometry.layers);
  }
  if (section.size() != directory_[layer].bytes) {
    return base::Corrupt("object: {} bytes for layer {}, its section has {}", section.size(), layer,
                         directory_[layer].bytes);
  }
  const size_t tiles = info_.tiles_per_layer();
  const size_t crc_at = tiles * layout::kIndexEntryBytes;
  if (layout::IndexCrc(identity_bytes_, layer, section.first(crc_at)) !=
      base::LoadLe<uint32_t>(section.data() + crc_at)) {
    return base::Corrupt("object: CRC32C of the index of layer {} does not match", layer);
  }
  LayerSection out;
  out.layer_ = layer;
  out.section_ = section;
  out.entries_.resize(tiles);  // Open() has bounded it by the section's bytes
  size_t at = layout::IndexBytes(tiles);
  for (size_t i = 0; i < tiles; ++i) {
    const std::byte* entry = section.data() + i * layout::kIndexEntryBytes;
    const auto bytes = base::LoadLe<uint32_t>(entry);
    const size_t raw_bytes = ShapeOf(info_, TileAt(info_, i)).raw_bytes();
    if (bytes < 1 || bytes > 1 + raw_bytes || bytes > section.size() - at) {
      return base::Corrupt("object: tile {} of layer {} claims {} bytes; raw it has {}, {} are left", i,
                           layer, bytes, 1 + raw_bytes, section.size() - at);
    }
    out.entries_[i] = {at, bytes, base::LoadLe<uint32_t>(entry + 4)};
    at += bytes;
  }
  if (at != section.size()) {
    return base::Corrupt("object: {} bytes after the last tile of layer {}", section.size() - at, layer);
  }
  return out;
}

base::Result<std::span<const std::byte>> LayerSection::Tile(size_t index) const {
  if (index >= entries_.size()) return base::InvalidArgument("object: tile {} of {}", index, entries_.size());
  const Entry& entry = entries_[index];
  const auto coded = section_.subspan(entry.offset, entry.bytes);
  if (TileCrc(coded) != entry.crc) return base::Corrupt("object: CRC32C of tile {} does not match", index);
  return coded;
}

base::Status ObjectReader::CheckDecodable() const {
  if (codecs_[0] != nullptr && codecs_[1] != nullptr) return base::Status::Ok();
  return base::FailedPrecondition("object: coded with the profile {}, which is not loaded",
                                  ProfileId{info_.identity.profile}.ToHex());
}

base::Status ObjectReader::DecodeTile(const LayerSection& section, const TileRef& tile, Workspace& workspace,
                                      const tensor::TileView& out) const {
  if (tile.head_group >= info_.head_groups() || tile.token_tile >= info_.token_tiles()) {
    return base::InvalidArgument("object: no tile (head group {}, token tile {})", tile.head_group,
                                 tile.token_tile);
  }
  if (ShapeOf(out) != ShapeOf(info_, tile)) {
    return base::InvalidArgument("object: the view's shape is not the tile's");
  }
  KVPLANE_ASSIGN_OR_RETURN(const auto coded, section.Tile(TileIndex(info_, tile)));
  const TileCodec* codec = codecs_[static_cast<size_t>(tile.side)].get();
  if (codec == nullptr) return CheckDecodable();
  return codec->Decode(coded, workspace, out, ContextOf(info_, section.layer(), tile));
}

base::Status ObjectReader::DecodeLayer(uint32_t layer, std::span<const std::byte> section,
                                       Workspace& workspace, const tensor::LayerPages& out) const {
  KVPLANE_RETURN_IF_ERROR(CheckDecodable());
  if (out.format.block_tokens == 0 || out.pages.size() * out.format.block_tokens < info_.tokens) {
    return base::InvalidArgument("object: {} pages of {} tokens do not cover {} tokens", out.pages.size(),
                                 out.format.block_tokens, info_.tokens);
  }
  KVPLANE_ASSIGN_OR_RETURN(const LayerSection opened, OpenLayer(layer, section));
  for (size_t i = 0; i < opened.tiles(); ++i) {
    const TileRef tile = TileAt(info_, i);
    const TileShape shape = ShapeOf(info_, tile);
    const tensor::TileView view =
        tensor::MakeTileView(out, tile.side, tile.token_tile * tensor::kTileTokens, shape.tokens,
                             tile.head_group * info_.heads_per_tile(), shape.heads, shape.head_dim);
    KVPLANE_RETURN_IF_ERROR(
        DecodeTile(opened, tile, workspace, view).Annotate(fmt::format("layer {}, tile {}", layer, i)));
  }
  return base::Status::Ok();
}

base::Status ObjectReader::CheckObjectLength(std::span<const std::byte> object) const {
  if (object.size() == object_bytes_) return base::Status::Ok();
  return base::Corrupt("object: {} bytes, its header says {}", object.size(), object_bytes_);
}

base::Status ObjectReader::DecodeAll(std::span<const std::byte> object, Workspace& workspace,
                                     std::span<const tensor::LayerPages> out) const {
  KVPLANE_RETURN_IF_ERROR(CheckDecodable());
  KVPLANE_RETURN_IF_ERROR(CheckObjectLength(object));
  if (out.size() != info_.geometry.layers) {
    return base::InvalidArgument("object: pages of {} layers for {}", out.size(), info_.geometry.layers);
  }
  for (uint32_t layer = 0; layer < info_.geometry.layers; ++layer) {
    const auto section = object.subspan(directory_[layer].offset, directory_[layer].bytes);
    KVPLANE_RETURN_IF_ERROR(DecodeLayer(layer, section, workspace, out[layer]));
  }
  return base::Status::Ok();
}

base::Status ObjectReader::VerifyChecksums(std::span<const std::byte> object) const {
  KVPLANE_RETURN_IF_ERROR(CheckObjectLength(object));
  for (uint32_t layer = 0; layer < info_.geometry.layers; ++layer) {
    const auto section = object.subspan(directory_[layer].offset, directory_[layer].bytes);
    KVPLANE_ASSIGN_OR_RETURN(const LayerSection opened, OpenLayer(layer, section));
    for (size_t i = 0; i < opened.tiles(); ++i) {
      KVPLANE_RETURN_IF_ERROR(opened.Tile(i).status().Annotate(fmt::format("layer {}", layer)));
    }
  }
  return base::Status::Ok();
}

}  // namespace kvplane::codec
