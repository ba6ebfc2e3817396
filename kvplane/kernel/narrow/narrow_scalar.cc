#include "kvplane/kernel/narrow/narrow_definition.h"

namespace kvplane::kernel::internal {
namespace {

uint16_t LargestMagnitude(const uint16_t* const* rows, uint32_t tokens, uint32_t channels) {
  return LargestMagnitudeBody(rows, tokens, channels);
}

void LargestOfTokens(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint16_t* largest) {
  for (uint32_t t = 0; t < tokens; ++t) largest[t] = LargestMagnitudeBody(rows + t, 1, channels);
}

template <typename Format>
void Encode(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, float inverse,
            std::byte* codes) {
  EncodeBody<Format>(rows, tokens, channels, inverse, codes);
}

template <typename Format>
void Decode(const std::byte* codes, uint32_t tokens, uint32_t channels, float scale, uint16_t* const* rows) {
  DecodeBody<Format>(codes, tokens, channels, scale, rows);
}

template <typename Format>
bool CodesValid(const std::byte* codes, size_t count) {
  return CodesValidBody<Format>(codes, count);
}

}  // namespace

constinit const NarrowKernels kNarrowScalar = {
    LargestMagnitude,
    LargestOfTokens,
    {Encode<Int8Format>, Encode<E4m3Format>, Encode<E5m2Format>},
    {Decode<Int8Format>, Decode<E4m3Format>, Decode<E5m2Format>},
    {CodesValid<Int8Format>, CodesValid<E4m3Format>, CodesValid<E5m2Format>}};

}  // namespace kvplane::kernel::internal
