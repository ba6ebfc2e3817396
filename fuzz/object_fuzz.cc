// Objects from anywhere: opening, verifying and decoding them never crashes and takes no memory for claims
// that the bytes do not back; every instruction set reads the same values. Each input is tried as it is, then
// with its checksums made good and, where it names a profile, with the one that the fuzzer has, so that the
// checks behind them are reached.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "kvplane/base/endian.h"
#include "kvplane/codec/object.h"
#include "kvplane/codec/object_layout.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/kernel/testing/scoped_isa.h"

namespace {

namespace base = kvplane::base;
namespace codec = kvplane::codec;
namespace layout = kvplane::codec::layout;
namespace tensor = kvplane::tensor;

void Require(bool condition) {
  if (!condition) std::abort();
}

// The geometry of the golden objects; those of UnevenProfileData() have more heads.
constexpr tensor::KvGeometry kGeometry{.layers = 1, .kv_heads = 2, .head_dim = 16};
constexpr uint16_t kUnevenHeads = 8;

const codec::ProfileSet& Profiles() {
  static const codec::ProfileSet profiles = [] {
    codec::ProfileSet set;
    set.Add(*codec::ModelProfile::Create(codec::testing::SyntheticProfileData({.geometry = kGeometry})));
    set.Add(*codec::ModelProfile::Create(codec::testing::UnevenProfileData()));
    return set;
  }();
  return profiles;
}

// The CRC of each decoded layer, none where a layer is refused. Layers go into one page; the bytes bound the
// values by the smallest ratio of a tile.
std::vector<std::optional<uint32_t>> DecodeAll(std::span<const std::byte> object,
                                               const codec::ObjectReader& reader) {
  const codec::ObjectInfo& info = reader.info();
  Require(info.raw_bytes() <= codec::kMaxTileRatio * uint64_t{object.size()});
  const auto format = tensor::PageFormat::HeadMajor(info.geometry, info.tokens);
  std::vector<uint16_t> page(format.page_elements);
  uint16_t* pages[] = {page.data()};
  codec::Workspace workspace;
  std::vector<std::optional<uint32_t>> layers;
  for (uint32_t layer = 0; layer < info.geometry.layers; ++layer) {
    const auto range = reader.layer_range(layer);
    Require(range.offset + range.bytes <= object.size());
    const bool decoded =
        reader.DecodeLayer(layer, object.subspan(range.offset, range.bytes), workspace, {pages, format}).ok();
    layers.emplace_back();
    if (decoded) layers.back() = kvplane::kernel::Crc32c(std::as_bytes(std::span(page)));
  }
  return layers;
}

void Try(std::span<const std::byte> object) {
  (void)codec::ObjectReader::PrefixBytes(object).ok();
  std::optional<std::vector<std::optional<uint32_t>>> expected;
  for (const kvplane::kernel::Isa isa : kvplane::kernel::AvailableIsas()) {
    const kvplane::kernel::testing::ScopedIsa scope(isa);
    const auto reader = codec::ObjectReader::Open(object, {.profiles = &Profiles()});
    Require(isa == kvplane::kernel::Isa::kScalar || reader.ok() == expected.has_value());
    if (!reader.ok() || reader->object_bytes() != object.size()) return;
    (void)reader->VerifyChecksums(object).ok();
    // Without its profile an object can be forwarded, not decoded; its bytes bound its values all the same.
    const codec::ObjectInfo& info = reader->info();
    const bool bound = !info.strategy.needs_profile() || Profiles().Find({info.identity.profile}) != nullptr;
    Require(reader->CheckDecodable().ok() == bound);
    const auto layers = DecodeAll(object, *reader);
    Require(bound || std::ranges::none_of(layers, [](const auto& layer) { return layer.has_value(); }));
    if (!expected) expected = layers;
    Require(layers == *expected);
  }
}

// Header, prefix, index and tile CRCs, as far as the structure can be followed.
void FixChecksums(std::vector<std::byte>& object) {
  if (object.size() < layout::kAtStrategyText + layout::kCrcBytes) return;
  const auto at = [&object](size_t offset) { return object.data() + offset; };
  constexpr std::array<std::byte, 16> kNoProfile{};
  if (std::memcmp(at(layout::kAtProfile), kNoProfile.data(), kNoProfile.size()) != 0) {
    const bool uneven = base::LoadLe<uint16_t>(at(layout::kAtKvHeads)) == kUnevenHeads;
    const auto& profile = uneven ? Profiles().all().back() : Profiles().all().front();
    std::memcpy(at(layout::kAtProfile), profile->id().bytes.data(), kNoProfile.size());
  }
  base::StoreLe(at(layout::kAtHeaderCrc), kvplane::kernel::Crc32c({object.data(), layout::kAtHeaderCrc}));
  const auto prefix = base::LoadLe<uint32_t>(at(layout::kAtPrefixBytes));
  if (prefix < layout::kAtStrategyText + layout::kCrcBytes || prefix > object.size()) return;
  const size_t crc_at = prefix - layout::kCrcBytes;
  base::StoreLe(at(crc_at),
                kvplane::kernel::Crc32c({at(codec::kObjectHeaderBytes), crc_at - codec::kObjectHeaderBytes}));
  const auto reader = codec::ObjectReader::Open(object);
  if (!reader.ok() || reader->object_bytes() != object.size()) return;
  const std::span<const std::byte> identity(at(codec::kObjectHeaderBytes), layout::kIdentityBytes);
  const size_t tiles = reader->info().tiles_per_layer();
  for (uint32_t layer = 0; layer < reader->info().geometry.layers; ++layer) {
    const auto range = reader->layer_range(layer);
    const auto section = std::span(object).subspan(range.offset, range.bytes);
    size_t tile_at = layout::IndexBytes(tiles);
    for (size_t i = 0; i < tiles; ++i) {
      std::byte* entry = section.data() + i * layout::kIndexEntryBytes;
      const auto bytes = base::LoadLe<uint32_t>(entry);
      if (bytes > section.size() - tile_at) break;
      base::StoreLe(entry + 4, codec::TileCrc(section.subspan(tile_at, bytes)));
      tile_at += bytes;
    }
    const size_t index_crc_at = tiles * layout::kIndexEntryBytes;
    base::StoreLe(section.data() + index_crc_at,
                  layout::IndexCrc(identity, layer, section.first(index_crc_at)));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Try(std::as_bytes(std::span(data, size)));
  const auto bytes = std::as_bytes(std::span(data, size));
  std::vector<std::byte> fixed(bytes.begin(), bytes.end());
  FixChecksums(fixed);
  Try(fixed);
  return 0;
}
