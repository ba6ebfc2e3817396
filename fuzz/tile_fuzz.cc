// Coded tiles from anywhere, for chains of every stage, with a small profile for those that take one.
// Decode() never crashes, reads nothing outside its input and writes nothing outside its tile; every
// instruction set accepts the same bytes and decodes them to the same values.
//
// Input: eight bytes (chain and mode, tokens, heads, head_dim, layer and head, quality, position), then the
// coded tile or, in mode "values", bf16 values to encode, or a byte for each that is about as large as the
// profiles say (the eighth byte tells). Values make the same bytes on every instruction set
// (but for `pca`) and come back: exactly from lossless chains, finite from coded lossy tiles.
//
// --chains=TEXT fuzzes only the chains that contain the text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/kernel/testing/scoped_isa.h"

namespace {

namespace codec = kvplane::codec;
namespace kernel = kvplane::kernel;
namespace tensor = kvplane::tensor;
using codec::TileCodec;

constexpr std::string_view kChains[] = {
    "store",
    "affine(bits=2,group=32,axis=channel) | pack",
    "affine(bits=4,group=64,axis=channel) | pack",
    "affine(bits=8,group=8,axis=channel) | pack",
    "affine(bits=2,group=8,axis=token) | pack",
    "affine(bits=4,group=64,axis=token) | pack",
    "affine(bits=8,group=40,axis=token) | pack",
    "exponent(window)",
    "exponent(rans)",
    "zstd(level=1)",
    "lz4",
    "int8(token_head) | pack",
    "int8(head) | zstd(level=1)",
    "fp8(e4m3,scale=head) | pack",
    "fp8(e5m2,scale=one) | pack",
    "fp8(e4m3,scale=token_head) | bitplane_rle",
    "levels(m=3,axis=channel) | pack",
    "levels(m=6,axis=token) | rans(stream)",
    "levels(m=32,axis=tensor) | rans(stream)",
    "levels(m=16,group=32,axis=token) | bitplane_rle",
    "levels(m=12) | zstd(level=1)",
    "levels(m=5) | lz4",
    "affine(bits=4) | rans(stream)",
    "layers(first,ratio=50) | levels(m=16,low=4) | rans(stream)",
    "heads(ratio=50) | hadamard | levels(m=6,low=4) | rans(stream)",
    "heads(ratio=25) | levels(m=200,low=2) | pack",
    "cachegen(level=1) | rans(stream)",
    "delta(group=10) | cachegen(level=2) | pack",
    "cachegen(level=3) | bitplane_rle",
    "hadamard | lloyd(bits=4) | pack",
    "hadamard | lloyd(bits=3) | rans(stream)",
    "centre(block) | hadamard | lloyd(bits=1) | pack",
    "nvfp4 | pack",
    "mxfp4 | pack",
    "hadamard | nvfp4 | rans(stream)",
    "protect(sinks=4,recent=8) | exponent(rans)",
    "protect(sinks=3,recent=2) | delta(group=4) | affine(bits=4,group=8) | pack",
    "centre(block) | affine(bits=2,group=32) | pack",
    "unrope | affine(bits=8) | pack",
    "unrope | centre(static) | pca(head,attention) | levels(m=16) | pack",
    "centre(static) | pca(layer,plain,rank=20) | levels(m=64,axis=tensor) | zstd(level=1)",
    "ecsq(snr=21,scale=tile) | rans(class)",
    "centre(block) | ecsq(snr=40,scale=tile) | rans(class)",
    "ecsq(snr=16) | rans(class)",
    "centre(static) | ecsq(snr=31,weight=model) | rans(class)",
    "protect | centre(static) | ecsq(snr=9) | rans(class)",
    "heads(ratio=50) | unrope | centre(static) | ecsq(snr=21,low=6) | rans(class)",
    "unrope | centre(static) | pca(head) | ecsq(snr=21) | rans(class)",
    "centre(static) | pca(layer,attention) | ecsq(snr=17,weight=model) | rans(class)",
    "ternary(layers=1,snr=21) | rans(class)",
    "centre(static) | ternary(layers=3,snr=30,weight=model) | rans(class)",
    "unrope | centre(static) | pca(layer,attention) | ternary(layers=2) | rans(class)",
};

// With the profiles of whole windows: the one that has idle lanes, and one with a lane for every element,
// where levels are coded as bytes.
constexpr std::string_view kWindowChains[] = {
    "ecsq(snr=12) | rans(class)",
    "ecsq(snr=25,scale=tile) | rans(class)",
    "heads(ratio=50) | ecsq(snr=21,low=6) | rans(class)",
    "centre(static) | ecsq(snr=21) | rans(class)",
    "centre(static) | pca(layer) | ecsq(snr=21) | rans(class)",
    "protect | centre(static) | ecsq(snr=24,weight=model) | rans(class)",
    "centre(static) | ternary(layers=1,snr=21) | rans(class)",
};

// Of the profile; and of those whose tiles are whole windows of the vector kernels.
constexpr tensor::KvGeometry kGeometry{.layers = 2, .kv_heads = 3, .head_dim = 14};
constexpr tensor::KvGeometry kWindowGeometry{.layers = 2, .kv_heads = 4, .head_dim = 64};
constexpr size_t kHeaderBytes = 8;

std::string wanted_chains;  // set once, before the first input

std::string_view current_chain;  // for the report

void Require(bool condition, std::string_view what, kernel::Isa isa = kernel::Isa::kScalar) {
  if (condition) return;
  fmt::print(stderr, "tile_fuzz: {}, {}: {}\n", current_chain, kernel::Name(isa), what);
  std::abort();
}

// One chain on every instruction set, scalar first.
struct Bound {
  std::string_view chain;
  tensor::KvGeometry geometry;  // of the profile
  std::vector<std::shared_ptr<const TileCodec>> codecs;
  bool fits_profile_only = false;
  bool all_heads = false;
  bool exact = true;  // all instruction sets agree to the last bit, both ways
};

// Lanes far below their step have no stream: in one layer those of the last windows, in the other one single
// ones everywhere.
codec::ModelProfileData WithIdleLanes(codec::ModelProfileData data) {
  for (size_t layer = 0; layer < data.layers.size(); ++layer) {
    for (auto& space : data.layers[layer]) {
      for (auto& basis : space->bases) {
        for (size_t i = 0; i < basis->lanes.size(); ++i) {
          const bool idle = layer == 0 ? i >= basis->lanes.size() / 2 : i % 5 == 3;
          if (idle) basis->lanes[i].deviation = codec::kMinLaneLog;
        }
      }
    }
  }
  return data;
}

void BindChains(std::span<const std::string_view> chains, codec::ModelProfileData data,
                std::vector<Bound>& all) {
  const auto profile = *codec::ModelProfile::Create(std::move(data));
  for (const std::string_view text : chains) {
    if (text.find(wanted_chains) == std::string_view::npos) continue;
    current_chain = text;
    const auto strategy = codec::SideStrategy::Parse(text, tensor::Side::kKey);
    Require(strategy.ok(), "is not legal");
    Bound bound;
    bound.chain = text;
    bound.geometry = profile->data().geometry;
    bound.fits_profile_only = strategy->needs_profile();
    bound.all_heads = strategy->needs_all_heads();
    bound.exact = codec::FindCall(strategy->stages(), codec::kStagePca) == nullptr;
    for (const kernel::Isa isa : kernel::AvailableIsas()) {
      const kernel::testing::ScopedIsa scope(isa);
      bound.codecs.push_back(*TileCodec::Create(*strategy, tensor::Side::kKey, profile));
    }
    all.push_back(std::move(bound));
  }
}

std::vector<Bound> BindAll() {
  std::vector<Bound> all;
  BindChains(kChains, codec::testing::SyntheticProfileData({.geometry = kGeometry}), all);
  const auto windows = codec::testing::SyntheticProfileData({.geometry = kWindowGeometry});
  BindChains(kWindowChains, WithIdleLanes(windows), all);
  BindChains(kWindowChains, windows, all);
  Require(!all.empty(), "no such chain");
  return all;
}

struct Input {
  codec::TileShape shape;
  codec::TileContext context;
  bool values = false;  // the bytes are values to encode
  bool small = false;   // one byte each
  std::span<const std::byte> bytes;
};

Input ReadInput(const Bound& bound, const uint8_t* data, size_t size) {
  Input input;
  input.values = data[0] >= 128;
  input.small = data[7] >= 128;
  // Mostly small tiles, for the sake of speed.
  input.shape.tokens = 1 + data[1] % (data[1] < 224 ? 20 : tensor::kTileTokens);
  input.shape.heads = 1 + data[2] % (data[2] < 224 ? 2 : 4);
  input.shape.head_dim = 1 + data[3] % (data[3] < 240 ? 40 : 160);
  const tensor::KvGeometry& geometry = bound.geometry;
  input.context = {.layer = data[4] % geometry.layers,
                   .layers = geometry.layers,
                   .first_head = 0,
                   .kv_heads = geometry.kv_heads,
                   .first_position = static_cast<uint32_t>(data[6]) << (data[7] % 24),
                   .end_position = 0,
                   .quality = data[5]};
  if (bound.fits_profile_only) {
    input.shape.head_dim = geometry.head_dim;
    input.shape.heads = bound.all_heads ? geometry.kv_heads : 1 + data[2] % geometry.kv_heads;
    input.context.first_head = geometry.kv_heads - input.shape.heads;
  } else {
    input.context.kv_heads = input.shape.heads;
  }
  if (data[4] >= 128) input.context.end_position = input.context.first_position + input.shape.tokens;
  input.bytes = std::as_bytes(std::span(data + kHeaderBytes, size - kHeaderBytes));
  return input;
}

// Sixteenths; the ends of the range stand for values that no int32 of steps holds.
uint16_t SmallValue(std::byte byte) {
  const auto number = static_cast<int8_t>(byte);
  if (number == INT8_MAX) return tensor::FloatToBf16(0x1p40f);
  if (number == INT8_MIN) return tensor::FloatToBf16(-0x1p40f);
  return tensor::FloatToBf16(static_cast<float>(number) / 16);
}

// The bytes, over and over again.
std::vector<uint16_t> ReadValues(const Input& input) {
  std::vector<uint16_t> values(input.shape.values());
  const std::span<const std::byte> bytes = input.bytes;
  for (size_t i = 0; i < values.size() && !bytes.empty(); ++i) {
    if (input.small) {
      values[i] = SmallValue(bytes[i % bytes.size()]);
      continue;
    }
    const size_t at = 2 * i % bytes.size();
    values[i] = static_cast<uint16_t>(static_cast<unsigned>(bytes[at]) |
                                      static_cast<unsigned>(bytes[(at + 1) % bytes.size()]) << 8);
  }
  return values;
}

tensor::TileView ViewOf(std::vector<uint16_t>& values, const codec::TileShape& shape) {
  return tensor::TileView::Contiguous(values.data(), shape.tokens, shape.heads, shape.head_dim);
}

// Whether two decoders of one tile agree: to the bit, or as far as sums in another order may differ.
bool Agree(const Bound& bound, std::span<const uint16_t> a, std::span<const uint16_t> b) {
  if (std::ranges::equal(a, b)) return true;
  if (bound.exact) return false;
  float largest = 0;
  for (const uint16_t v : a) largest = std::max(largest, std::abs(tensor::Bf16ToFloat(v)));
  for (size_t i = 0; i < a.size(); ++i) {
    const float x = tensor::Bf16ToFloat(a[i]);
    const float y = tensor::Bf16ToFloat(b[i]);
    if (!(std::abs(x - y) <= std::ldexp(std::abs(x), -6) + std::ldexp(largest, -10))) return false;
  }
  return true;
}

// Decodes on every instruction set; false when all refuse.
bool DecodeEverywhere(const Bound& bound, const Input& input, std::span<const std::byte> coded,
                      std::vector<uint16_t>& values) {
  codec::Workspace workspace;
  bool accepted = false;
  for (size_t i = 0; i < bound.codecs.size(); ++i) {
    const kernel::Isa isa = kernel::AvailableIsas()[i];
    const kernel::testing::ScopedIsa scope(isa);
    std::vector<uint16_t> out(input.shape.values(), 0xbeef);
    const bool ok = bound.codecs[i]->Decode(coded, workspace, ViewOf(out, input.shape), input.context).ok();
    if (i == 0) {
      accepted = ok;
      values = std::move(out);
      continue;
    }
    Require(ok == accepted, ok ? "accepts what scalar refuses" : "refuses what scalar accepts", isa);
    Require(!ok || Agree(bound, values, out), "decodes other values than scalar", isa);
  }
  return accepted;
}

// Encodes on every instruction set; what each has coded decodes alike everywhere.
void EncodeEverywhere(const Bound& bound, const Input& input, std::vector<uint16_t>& values) {
  codec::Workspace workspace;
  std::vector<std::byte> first;
  for (size_t i = 0; i < bound.codecs.size(); ++i) {
    const kernel::Isa isa = kernel::AvailableIsas()[i];
    std::vector<std::byte> coded(bound.codecs[i]->MaxEncodedBytes(input.shape));
    {
      const kernel::testing::ScopedIsa scope(isa);
      const auto bytes = bound.codecs[i]->Encode(tensor::AsConst(ViewOf(values, input.shape)), workspace,
                                                 coded, input.context);
      Require(bytes.ok() && *bytes <= coded.size(), "does not encode", isa);
      Require(*bytes >= bound.codecs[i]->MinEncodedBytes(input.shape), "fewer bytes than least", isa);
      coded.resize(*bytes);
      coded.shrink_to_fit();  // so that a read past the end is seen
    }
    if (i > 0 && coded == first) continue;
    Require(i == 0 || !bound.exact, "encodes other bytes than scalar", isa);
    std::vector<uint16_t> decoded;
    Require(DecodeEverywhere(bound, input, coded, decoded), "refuses what was encoded", isa);
    const bool raw = coded[0] == std::byte{0};
    if (raw || !bound.codecs[i]->lossy()) {
      Require(decoded == values, "exact values come back changed", isa);
    } else {
      // Protected tokens are kept as they are, whatever they hold.
      for (size_t v = 0; v < values.size(); ++v) {
        Require(decoded[v] == values[v] || std::isfinite(tensor::Bf16ToFloat(decoded[v])),
                "a value is not finite", isa);
      }
    }
    if (i == 0) first = std::move(coded);
  }
}

}  // namespace

// libFuzzer leaves flags with two dashes to the target.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  constexpr std::string_view kFlag = "--chains=";
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = (*argv)[i];
    if (argument.starts_with(kFlag)) wanted_chains = argument.substr(kFlag.size());
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<Bound> all = BindAll();
  if (size < kHeaderBytes) return 0;
  const Bound& bound = all[data[0] % 128 % all.size()];
  current_chain = bound.chain;
  const Input input = ReadInput(bound, data, size);
  std::vector<uint16_t> values;
  if (input.values) {
    values = ReadValues(input);
  } else if (!DecodeEverywhere(bound, input, input.bytes, values)) {
    return 0;
  }
  EncodeEverywhere(bound, input, values);
  return 0;
}
