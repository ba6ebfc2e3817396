#include "kvplane/kernel/bitplane/bitplane_definition.h"

namespace kvplane::kernel::internal {
namespace {

void Split(const uint8_t* symbols, size_t count, uint32_t alphabet, uint32_t bits, std::byte* planes) {
  SplitFrom(0, symbols, count, alphabet, bits, planes);
}

uint8_t Join(const std::byte* planes, size_t count, uint32_t alphabet, uint32_t bits, uint8_t* symbols) {
  return JoinFrom(0, planes, count, alphabet, bits, symbols);
}

size_t CountKept(const std::byte* in, size_t size, std::byte filler) {
  return CountKeptFrom(0, in, size, filler);
}

size_t Gather(const std::byte* in, size_t size, std::byte filler, std::byte* marks, std::byte* kept) {
  std::byte* at = kept;
  GatherFrom(0, in, size, filler, marks, at);
  return static_cast<size_t>(at - kept);
}

size_t Scatter(const std::byte* marks, size_t size, std::byte filler, const std::byte* kept, size_t available,
               std::byte* out) {
  const std::byte* at = kept;
  if (!ScatterFrom(0, marks, size, filler, at, kept + available, out)) return kNoBytesLeft;
  return static_cast<size_t>(at - kept);
}

}  // namespace

constinit const BitplaneKernels kBitplaneScalar = {Split, Join, CountKept, Gather, Scatter};

}  // namespace kvplane::kernel::internal
