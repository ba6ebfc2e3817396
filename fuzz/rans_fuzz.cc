// rANS-B streams from outside: the input chooses a shape and is the stream. No instruction set may crash,
// read outside or disagree with the scalar decoder; what is accepted must be what an encoder writes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "kvplane/kernel/rans/rans.h"

namespace {

using kvplane::kernel::Isa;
using kvplane::kernel::RansRung;
using kvplane::kernel::RansShape;

struct Decoded {
  uint32_t corrupt;
  std::vector<int16_t> levels;
};

Decoded Decode(Isa isa, const RansShape& shape, std::span<const std::byte> stream) {
  Decoded out{0, std::vector<int16_t>(shape.steps() * kvplane::kernel::kRansLanes)};
  int16_t* const levels = out.levels.data();
  out.corrupt = kvplane::kernel::Rans(isa).decode_levels(shape, 1, &stream, &levels);
  return out;
}

void CheckUnique(Isa isa, const RansShape& shape, const std::vector<int16_t>& levels,
                 std::span<const std::byte> stream) {
  std::vector<std::byte> buffer(RansMaxStreamBytes(shape));
  const int16_t* const in = levels.data();
  std::byte* const end = buffer.data() + buffer.size();
  size_t size = 0;
  kvplane::kernel::Rans(isa).encode_levels(shape, 1, &in, &end, &size);
  if (size != stream.size() || !std::equal(stream.begin(), stream.end(), end - size)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kMaxGroups = 4;
  constexpr size_t kHeader = 2 + kMaxGroups;
  if (size < kHeader) return 0;
  const uint32_t tokens = 1 + data[0] % 64;
  const uint32_t channels = 1 + data[1] % (32 * kMaxGroups);
  RansRung rungs[kMaxGroups];
  for (size_t g = 0; g < kMaxGroups; ++g) {
    rungs[g] = RansRung::Of(data[2 + g] % 17, data[2 + g] / 17 % 5);
  }
  const RansShape shape{tokens, channels, rungs};
  // A copy of exactly this length, so that any read outside is seen.
  const auto* first = reinterpret_cast<const std::byte*>(data + kHeader);
  const std::vector<std::byte> stream(first, first + (size - kHeader));

  const Decoded expected = Decode(Isa::kScalar, shape, stream);
  for (const Isa isa : kvplane::kernel::AvailableIsas()) {
    const Decoded decoded = Decode(isa, shape, stream);
    if (decoded.corrupt != expected.corrupt) std::abort();
    if (decoded.corrupt != 0) continue;
    if (decoded.levels != expected.levels) std::abort();
    CheckUnique(isa, shape, decoded.levels, stream);
  }
  std::vector<int16_t> levels(shape.steps() * kvplane::kernel::kRansLanes);
  if (DecodeRansRaw(shape, stream, levels.data())) {
    std::vector<std::byte> raw(RansRawBytes(shape));
    EncodeRansRaw(shape, levels.data(), raw.data());
    if (raw != stream) std::abort();
  }
  return 0;
}
