#include <algorithm>

#include "kvplane/kernel/exponent/exponent_definition.h"

namespace kvplane::kernel::internal {
namespace {

void Split(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, std::byte* rests,
           std::byte* exponents) {
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < channels; ++c) {
      *rests++ = RestOf(rows[t][c]);
      *exponents++ = static_cast<std::byte>(ExponentOf(rows[t][c]));
    }
  }
}

void Join(const std::byte* rests, const std::byte* exponents, uint32_t tokens, uint32_t channels,
          uint16_t* const* rows) {
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < channels; ++c) {
      rows[t][c] = ValueOf(*rests++, static_cast<uint8_t>(*exponents++));
    }
  }
}

uint8_t LargestExponent(const uint16_t* const* rows, uint32_t tokens, uint32_t channels) {
  uint8_t largest = 0;
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < channels; ++c) {
      const uint8_t exponent = ExponentOf(rows[t][c]);
      if (exponent != 0xff) largest = std::max(largest, exponent);
    }
  }
  return largest;
}

size_t Encode(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint8_t base, size_t /*ahead*/,
              std::byte* rests, std::byte* codes, std::byte* escapes, size_t room) {
  std::byte* at = escapes;
  for (uint32_t t = 0; t < tokens; ++t) {
    if (!EncodeWindowRow(rows[t], 0, channels, base, rests, codes, at, escapes + room)) return kNoEscapeRoom;
    rests += channels;
    codes += WindowRowBytes(channels);
  }
  return static_cast<size_t>(at - escapes);
}

size_t CountEscapes(const std::byte* codes, size_t count) { return CountEscapesFrom(0, codes, count); }

size_t Decode(const std::byte* rests, const std::byte* codes, const std::byte* escapes, uint8_t base,
              uint32_t tokens, uint32_t channels, bool /*streaming_stores*/, uint16_t* const* rows) {
  const std::byte* at = escapes;
  for (uint32_t t = 0; t < tokens; ++t) {
    at = DecodeWindowRow(rests, codes, at, base, 0, channels, rows[t]);
    rests += channels;
    codes += WindowRowBytes(channels);
  }
  return static_cast<size_t>(at - escapes);
}

size_t EncodeWide(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint8_t base,
                  uint8_t width, std::byte* rests, uint8_t* codes, std::byte* escapes, size_t room) {
  std::byte* at = escapes;
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, codes += channels) {
    if (!EncodeWideRow(rows[t], 0, channels, base, width, rests, codes, at, escapes + room)) {
      return kNoEscapeRoom;
    }
  }
  return static_cast<size_t>(at - escapes);
}

size_t DecodeWide(const std::byte* rests, const uint8_t* codes, const std::byte* escapes, size_t available,
                  uint8_t base, uint8_t width, uint32_t tokens, uint32_t channels, bool /*streaming_stores*/,
                  uint16_t* const* rows) {
  const std::byte* at = escapes;
  for (uint32_t t = 0; t < tokens; ++t, rests += channels, codes += channels) {
    if (!DecodeWideRow(rests, codes, at, escapes + available, base, width, 0, channels, rows[t])) {
      return kNoEscapeRoom;
    }
  }
  return static_cast<size_t>(at - escapes);
}

}  // namespace

constinit const ExponentKernels kExponentScalar = {Split,        Join,   LargestExponent, Encode,
                                                   CountEscapes, Decode, EncodeWide,      DecodeWide};

}  // namespace kvplane::kernel::internal
