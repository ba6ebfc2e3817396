// Objects: one self-describing container of coded KV. docs/formats/object.md is normative.
//
// Prefix (header, identity, strategy text, layer directory), then one section per layer: tile index, coded
// tiles. A reader needs the prefix and the sections of the layers it wants, so any layer range is one ranged
// read. Every byte is covered by a CRC32C; a tile is verified before a value of it is delivered.
//
// Ownership: a writer owns the bytes it builds; readers copy what they keep (prefix and index entries) and
// borrow sections for the call. Thread safety: a writer belongs to one thread; an ObjectReader is immutable
// after Open() and shared by all threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

constexpr uint8_t kObjectMajor = 1;
constexpr uint8_t kObjectMinor = 0;
constexpr size_t kObjectHeaderBytes = 64;

// Bounds of what a reader takes; larger claims are refused before memory is taken for them.
constexpr uint32_t kMaxObjectLayers = 1024;
constexpr uint32_t kMaxObjectTokens = 1u << 24;

// Which cache the KV is of: what a reader compares before it uses the values. All zero when unknown.
struct ObjectIdentity {
  std::array<std::byte, 32> model_fingerprint{};  // SHA-256
  std::array<std::byte, 32> token_chain{};        // SHA-256 over the token blocks up to and with these
  std::array<std::byte, 16> rope{};               // first half of the SHA-256 of the rope configuration
  std::array<std::byte, 16> profile{};            // profile id; zero when no stage depends on a profile
  bool operator==(const ObjectIdentity&) const = default;
};

struct ObjectInfo {
  tensor::KvGeometry geometry;  // dtype bf16
  uint32_t first_token = 0;     // position of the first token in its sequence
  uint32_t tokens = 0;
  uint32_t head_group = 0;      // kv heads per tile, a divisor of kv_heads; 0 stands for all
  uint8_t quality[2] = {0, 0};  // by tensor::Side; meaning belongs to the strategy; 0 where it has none
  ObjectIdentity identity;
  Strategy strategy;

  uint32_t head_groups() const { return geometry.kv_heads / heads_per_tile(); }
  uint32_t heads_per_tile() const { return head_group == 0 ? geometry.kv_heads : head_group; }
  uint32_t token_tiles() const { return (tokens + tensor::kTileTokens - 1) / tensor::kTileTokens; }
  size_t tiles_per_layer() const { return size_t{2} * head_groups() * token_tiles(); }
  uint64_t raw_bytes() const { return geometry.bytes_per_token() * tokens; }
  // kInvalidArgument names the field: beyond the bounds above or those of a tile (tile_codec.h), or a head
  // group that does not divide the heads.
  base::Status Validate() const;
};

// One tile of a layer. Tiles of a layer lie in the order of (side, head group, token tile). The functions
// require: info is valid, the tile or index is one of it.
struct TileRef {
  tensor::Side side = tensor::Side::kKey;
  uint32_t head_group = 0;
  uint32_t token_tile = 0;
};
TileShape ShapeOf(const ObjectInfo& info, const TileRef& tile);
size_t TileIndex(const ObjectInfo& info, const TileRef& tile);
TileRef TileAt(const ObjectInfo& info, size_t index);
TileContext ContextOf(const ObjectInfo& info, uint32_t layer, const TileRef& tile);
// Bytes of everything but the coded tiles: prefix and tile indexes. Requires: info is valid.
uint64_t OverheadBytes(const ObjectInfo& info);
// The most an object of this shape takes: every tile raw. Requires: info is valid.
uint64_t MaxObjectBytes(const ObjectInfo& info);

class ObjectWriter {
 public:
  // `profile`: what TileCodec::Create() takes; where the strategy needs one, its id is written in place of
  // info.identity.profile. kInvalidArgument: info is not valid; otherwise the errors of TileCodec::Create().
  static base::Result<ObjectWriter> Create(const ObjectInfo& info,
                                           std::shared_ptr<const ModelProfile> profile = nullptr);

  // Encodes all tiles of the next layer. `pages` covers info.tokens tokens, counted from 0. On an error the
  // writer stays where it was. kFailedPrecondition: all layers are written; kInvalidArgument: the pages do
  // not cover the tokens; otherwise the errors of TileCodec::Encode().
  base::Status AppendLayer(const tensor::LayerPages& pages, Workspace& workspace);
  // Takes the next layer's tiles as they were coded by the same strategy; [tiles_per_layer()], in order.
  // kFailedPrecondition: all layers are written; kInvalidArgument: not as many tiles as a layer has, or a
  // length that no tile has. Their contents are not looked at.
  base::Status AppendCodedLayer(std::span<const std::span<const std::byte>> tiles);

  uint32_t layers_written() const { return static_cast<uint32_t>(directory_.size()); }
  // The object. kFailedPrecondition: layers are missing, or it has been finished before.
  base::Result<std::vector<std::byte>> Finish();

 private:
  struct LayerSpan {
    uint64_t offset;
    uint64_t bytes;
  };
  ObjectWriter(const ObjectInfo& info, std::array<std::shared_ptr<const TileCodec>, 2> codecs);
  void BeginLayer();
  void EndTile(size_t index, size_t begin);
  void EndLayer();

  ObjectInfo info_;
  std::array<std::shared_ptr<const TileCodec>, 2> codecs_;
  std::vector<std::byte> bytes_;
  std::vector<LayerSpan> directory_;
  size_t layer_begin_ = 0;
};

struct OpenOptions {
  bool accept_lossy = true;              // false: a lossy object is refused with kFailedPrecondition
  const ProfileSet* profiles = nullptr;  // where a profile that the object names is looked up; for the call
};

// The verified index of one layer's section. Borrows the section.
class LayerSection {
 public:
  uint32_t layer() const { return layer_; }
  size_t tiles() const { return entries_.size(); }
  // The coded tile, CRC verified: kCorrupt when it does not match; kInvalidArgument: there is no such tile.
  base::Result<std::span<const std::byte>> Tile(size_t index) const;

 private:
  friend class ObjectReader;
  struct Entry {
    size_t offset;
    uint32_t bytes;
    uint32_t crc;
  };
  uint32_t layer_ = 0;
  std::span<const std::byte> section_;
  std::vector<Entry> entries_;
};

class ObjectReader {
 public:
  // How many bytes the prefix takes, from the first kObjectHeaderBytes of an object. kCorrupt and
  // kUnimplemented as Open().
  static base::Result<size_t> PrefixBytes(std::span<const std::byte> header);

  // `bytes` begins with a whole prefix (and may go on). kCorrupt: not an object, damaged or impossible, as
  // one of another geometry than the profile it names; kUnimplemented: a major version, critical flag or
  // stage of the future; kFailedPrecondition: lossy and not accepted. An object made with a profile that is
  // not among options.profiles opens and verifies; decoding it is kFailedPrecondition, with the profile's id
  // in the message.
  static base::Result<ObjectReader> Open(std::span<const std::byte> bytes, const OpenOptions& options = {});

  const ObjectInfo& info() const { return info_; }
  uint8_t minor_version() const { return minor_version_; }  // as its writer set it
  uint64_t object_bytes() const { return object_bytes_; }
  size_t prefix_bytes() const { return prefix_bytes_; }
  // Where the section of `layer` lies in the object. Requires: layer < info().geometry.layers.
  struct Range {
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  Range layer_range(uint32_t layer) const { return directory_[layer]; }

  // Verifies the index of `layer`; `section` is exactly layer_range(layer). kInvalidArgument: there is no
  // such layer; kCorrupt: another length, a CRC32C that does not match, impossible entries.
  base::Result<LayerSection> OpenLayer(uint32_t layer, std::span<const std::byte> section) const;

  // Whether the profile that the strategy takes is there: kFailedPrecondition, with its id, where it is not.
  // Decoding says so too; who takes memory for the values asks first.
  base::Status CheckDecodable() const;
  // Decodes one tile into `out`. On an error its values are unspecified: a CRC32C that does not match and bad
  // parameters are found before the first is written, a stream that ends wrongly is not.
  base::Status DecodeTile(const LayerSection& section, const TileRef& tile, Workspace& workspace,
                          const tensor::TileView& out) const;
  // Decodes all tiles of a layer into pages that cover info().tokens tokens, counted from 0. On an error the
  // tiles before the broken one have been delivered; the values of that one are unspecified.
  base::Status DecodeLayer(uint32_t layer, std::span<const std::byte> section, Workspace& workspace,
                           const tensor::LayerPages& out) const;
  // Decodes a whole object; out: [layers]. Errors of all three: kFailedPrecondition (CheckDecodable());
  // kInvalidArgument (no such layer or tile, a view of another shape, pages that do not cover the tokens);
  // kCorrupt (a length, a CRC32C or a coded tile is not as it must be).
  base::Status DecodeAll(std::span<const std::byte> object, Workspace& workspace,
                         std::span<const tensor::LayerPages> out) const;
  // Checks the length of the object and the CRC of every index and tile, without decoding: kCorrupt.
  base::Status VerifyChecksums(std::span<const std::byte> object) const;

 private:
  ObjectReader() = default;
  base::Status CheckObjectLength(std::span<const std::byte> object) const;

  ObjectInfo info_;
  std::array<std::shared_ptr<const TileCodec>, 2> codecs_;
  std::vector<Range> directory_;
  std::array<std::byte, 128>
      identity_bytes_{};  // as they lie in the object; section indexes are bound to them
  uint8_t minor_version_ = 0;
  size_t prefix_bytes_ = 0;
  uint64_t object_bytes_ = 0;
};

}  // namespace kvplane::codec
