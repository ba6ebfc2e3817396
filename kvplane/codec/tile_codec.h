// TileCodec: one side of a strategy bound to code. Encodes a strided bf16 tile to bytes and back.
//
// A coded tile (docs/formats/object.md, section 5) is one method byte and the method's payload: 0 = raw, the
// bf16 values as they are; 1 = coded by the strategy's chain; 2 = coded and padded; 3 = coded by the chain
// that stands in for one whose steps come from a profile that the tile does not fit (bound_chain.h). A tile
// that these cannot hold faithfully (for lossy chains: values that are not finite, or beyond their range) or
// cannot make smaller is coded raw, so a coded tile never exceeds its raw size by more than that one byte.
//
// Encoding is a pure function of values, context and profile: every instruction set gives the same bytes (but
// for `pca`, whose coefficients may round differently; decoding is exact on what was coded).
//
// Ownership: views and spans are borrowed for the call. Thread safety: a TileCodec is immutable and shared by
// all threads; a Workspace belongs to one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kvplane/base/status.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/codec/tile_context.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// Bounds of a tile: larger shapes are refused before anything is sized by them.
constexpr uint32_t kMaxTileHeads = 1024;
constexpr uint32_t kMaxTileHeadDim = 1024;

enum class TileMethod : uint8_t { kRaw = 0, kCoded = 1, kPadded = 2, kStandIn = 3 };

// A coded tile has at least 1/kMaxTileRatio of its raw bytes, by padding where it would be less: what an
// object or a peer claims to hold is bounded by what it sends.
constexpr size_t kMaxTileRatio = 1024;

// [tokens, heads, head_dim] bf16. Legal: 1..kTileTokens, 1..kMaxTileHeads, 1..kMaxTileHeadDim.
struct TileShape {
  uint32_t tokens = 0;
  uint32_t heads = 0;
  uint32_t head_dim = 0;

  size_t values() const { return size_t{tokens} * heads * head_dim; }
  size_t raw_bytes() const { return values() * sizeof(uint16_t); }
  base::Status Validate() const;
  bool operator==(const TileShape&) const = default;
};

// The shape of a view. A view that lies about its runs is the caller's bug.
template <typename Element>
TileShape ShapeOf(const tensor::BasicTileView<Element>& view) {
  return {view.tokens, view.heads, view.head_dim};
}

// Scratch memory of one thread: grows, never shrinks, so that steady state allocates nothing.
class Workspace {
 public:
  // Who uses it: the layers of one codec call hold theirs at the same time.
  enum class Use : uint8_t {
    kCoder,
    kSymbols,
    kStreams,
    kQuantizer,
    kTransformed,
    kTransform,
    kPayload,
    kBody,
    kStandIn
  };

  // At least `bytes` bytes, 64-byte aligned, contents undefined; valid until the next call with the same use.
  std::span<std::byte> Scratch(size_t bytes, Use use = Use::kCoder);

 private:
  struct Release {
    void operator()(std::byte* memory) const;
  };
  struct Arena {
    std::unique_ptr<std::byte[], Release> memory;
    size_t bytes = 0;
  };
  std::array<Arena, 9> arenas_;
};

class BoundChain;    // bound_chain.h
class ModelProfile;  // model_profile.h

class TileCodec {
 public:
  // Binds the chain of `side`. `profile` may be null when the strategy needs none; it is kept.
  // kUnimplemented: the chain is legal but this build has no code for it. kFailedPrecondition: the chain
  // needs a profile and there is none, or this one lacks what a stage takes.
  static base::Result<std::shared_ptr<const TileCodec>> Create(
      const SideStrategy& strategy, tensor::Side side, std::shared_ptr<const ModelProfile> profile = nullptr);
  // `wire_strategy` is the canonical text of one side (SideStrategy::ToString()) as carried in OPEN frames
  // and object headers. kCorrupt when it is anything else.
  static base::Result<std::shared_ptr<const TileCodec>> FromWire(
      std::span<const std::byte> wire_strategy, tensor::Side side,
      std::shared_ptr<const ModelProfile> profile = nullptr);
  ~TileCodec();

  const SideStrategy& strategy() const { return strategy_; }
  bool lossy() const { return strategy_.lossy(); }

  // The most Encode() can write for a legal shape: raw size plus the method byte.
  size_t MaxEncodedBytes(const TileShape& shape) const;
  // The fewest bytes a coded tile of a legal shape can have: what a claim about tiles is worth at least.
  size_t MinEncodedBytes(const TileShape& shape) const;

  // Encodes `in` [tokens, heads, head_dim] bf16 into `out` (at least MaxEncodedBytes) and returns the bytes
  // written. kInvalidArgument: illegal shape or short `out`, a tile that does not fit the profile.
  base::Result<size_t> Encode(const tensor::ConstTileView& in, Workspace& workspace, std::span<std::byte> out,
                              const TileContext& context = {}) const;

  // Decodes exactly `in` into `out`; `context` is that of the encoder. Never reads outside `in` nor writes
  // outside `out`. On an error the values of `out` are unspecified: the tile must not be used. Decoded values
  // of a lossy chain are finite unless the tile is raw or, by `protect`, their token. kCorrupt: unknown
  // method, wrong length, illegal parameters, a stream that does not end as it must. Integrity of the code
  // bits is the CRC's job.
  base::Status Decode(std::span<const std::byte> in, Workspace& workspace, const tensor::TileView& out,
                      const TileContext& context = {}) const;

 private:
  TileCodec(SideStrategy strategy, std::shared_ptr<const ModelProfile> profile);
  // What stands behind the method byte. No bytes: code the tile raw.
  struct Body {
    size_t bytes = 0;
    TileMethod method = TileMethod::kRaw;  // kCoded or kStandIn
  };
  size_t LeastBodyBytes(const TileShape& shape) const;
  base::Status CheckContext(const TileShape& shape, const TileContext& context) const;
  Body EncodeBody(const tensor::ConstTileView& in, Workspace& workspace, std::span<std::byte> out,
                  const TileContext& context) const;
  Body EncodeChain(const tensor::ConstTileView& in, Workspace& workspace, std::span<std::byte> out,
                   const TileContext& context) const;
  base::Status DecodeBody(const BoundChain& chain, std::span<const std::byte> in, Workspace& workspace,
                          const tensor::TileView& out, const TileContext& context) const;

  SideStrategy strategy_;
  std::shared_ptr<const ModelProfile> profile_;
  std::unique_ptr<const BoundChain> chain_;
  std::unique_ptr<const BoundChain> stand_in_;  // null: there is none
};

// CRC32C (Castagnoli, RFC 3720 B.4) of a coded tile, method byte included. It stands in the tile index of an
// object and in the tile header of a wire frame.
uint32_t TileCrc(std::span<const std::byte> coded);

}  // namespace kvplane::codec
