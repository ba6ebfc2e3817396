// --quality: the quality byte of an object's sides (docs/strategies.md, "The quality byte").
//
// Thread safety: a pure function.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kvplane/base/status.h"

namespace kvplane::cli {

// No numbers: 0, as the strategy says; one: of both sides; two: of keys and values. kInvalidArgument.
inline base::Result<std::array<uint8_t, 2>> ReadQuality(std::span<const uint32_t> numbers) {
  constexpr uint32_t kMost = 255;
  if (numbers.empty()) return std::array<uint8_t, 2>{};
  if (numbers.size() > 2 || numbers.front() > kMost || numbers.back() > kMost) {
    return base::InvalidArgument("--quality: one number for both sides, or those of keys and values, 0..{}",
                                 kMost);
  }
  return std::array{static_cast<uint8_t>(numbers.front()), static_cast<uint8_t>(numbers.back())};
}

}  // namespace kvplane::cli
