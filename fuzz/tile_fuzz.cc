// Coded tiles from anywhere: Decode() never crashes, reads nothing outside its input and writes all or
// nothing; what it accepts decodes to the same values on every call.
//
// Input: strategy selector, tokens, heads, head_dim / 8, then the coded tile.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kvplane/codec/tile_codec.h"

namespace {

using kvplane::codec::SideStrategy;
using kvplane::codec::TileCodec;
namespace tensor = kvplane::tensor;

constexpr std::string_view kChains[] = {
    "store",
    "affine(bits=2,group=32,axis=channel) | pack",
    "affine(bits=4,group=64,axis=channel) | pack",
    "affine(bits=8,group=8,axis=channel) | pack",
    "affine(bits=2,group=8,axis=token) | pack",
    "affine(bits=4,group=64,axis=token) | pack",
    "affine(bits=8,group=40,axis=token) | pack",
    "exponent(mode=window)",
    "zstd(level=1)",
    "lz4",
    "int8(scale=token_head) | pack",
    "fp8(format=e4m3,scale=head) | pack",
    "fp8(format=e5m2,scale=one) | pack",
};

void Require(bool condition) {
  if (!condition) std::abort();
}

std::vector<std::shared_ptr<const TileCodec>> MakeCodecs() {
  std::vector<std::shared_ptr<const TileCodec>> codecs;
  for (const std::string_view chain : kChains) {
    codecs.push_back(*TileCodec::FromWire(std::as_bytes(std::span(chain.data(), chain.size())),
                                          kvplane::tensor::Side::kKey));
  }
  return codecs;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto codecs = MakeCodecs();
  if (size < 4) return 0;
  const TileCodec& codec = *codecs[data[0] % codecs.size()];
  const uint32_t tokens = 1 + data[1] % tensor::kTileTokens;
  const uint32_t heads = 1 + data[2] % 4;
  const uint32_t head_dim = 1 + data[3] % 160;
  const auto coded = std::as_bytes(std::span(data + 4, size - 4));

  constexpr uint16_t kUntouched = 0xbeef;
  kvplane::codec::Workspace workspace;
  std::vector<uint16_t> values(size_t{tokens} * heads * head_dim, kUntouched);
  const auto view = tensor::TileView::Contiguous(values.data(), tokens, heads, head_dim);
  if (!codec.Decode(coded, workspace, view).ok()) {
    Require(std::all_of(values.begin(), values.end(), [](uint16_t v) { return v == kUntouched; }));
    return 0;
  }
  std::vector<uint16_t> again(values.size());
  Require(codec.Decode(coded, workspace, tensor::TileView::Contiguous(again.data(), tokens, heads, head_dim))
              .ok());
  Require(again == values);

  // What was decoded can be encoded, within the bound, and decoded again.
  std::vector<std::byte> out(codec.MaxEncodedBytes({tokens, heads, head_dim}));
  const auto encoded = codec.Encode(tensor::AsConst(view), workspace, out);
  Require(encoded.ok() && *encoded <= out.size());
  Require(codec.Decode(std::span(out).first(*encoded), workspace, view).ok());
  if (!codec.lossy()) Require(values == again);
  return 0;
}
