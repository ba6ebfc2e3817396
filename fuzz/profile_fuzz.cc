// Profiles from anywhere: parsing never crashes and takes no memory for claims that the bytes do not back;
// what is accepted is canonical. Each input is tried as it is, then with its length and checksum made good,
// so that the checks behind them are reached.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "kvplane/base/endian.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/kernel/checksum/checksum.h"

namespace {

namespace base = kvplane::base;
namespace codec = kvplane::codec;

void Require(bool condition) {
  if (!condition) std::abort();
}

void Try(std::span<const std::byte> bytes) {
  const auto parsed = codec::ModelProfile::Parse(bytes);
  if (!parsed.ok()) return;
  const auto again = codec::ModelProfile::Create((*parsed)->data());
  Require(again.ok());
  // Minor versions are read but not written.
  std::vector<std::byte> expected(bytes.begin(), bytes.end());
  if (expected[5] == std::byte{0}) Require(std::ranges::equal((*again)->bytes(), expected));
  for (uint32_t layer = 0; layer < (*parsed)->data().geometry.layers; ++layer) {
    for (size_t space = 0; space < codec::kKvSpaces; ++space) {
      for (size_t basis = 0; basis < codec::kBases; ++basis) {
        const auto* data =
            (*parsed)->basis(layer, static_cast<codec::KvSpace>(space), static_cast<codec::Basis>(basis));
        if (data != nullptr) Require(!data->lanes.empty());
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kAtFileBytes = 16;
  const auto bytes = std::as_bytes(std::span(data, size));
  Try(bytes);
  if (size < kAtFileBytes + sizeof(uint64_t) + sizeof(uint32_t)) return 0;
  std::vector<std::byte> fixed(bytes.begin(), bytes.end());
  base::StoreLe(fixed.data() + kAtFileBytes, uint64_t{size});
  const size_t crc_at = size - sizeof(uint32_t);
  base::StoreLe(fixed.data() + crc_at, kvplane::kernel::Crc32c({fixed.data(), crc_at}));
  Try(fixed);
  return 0;
}
