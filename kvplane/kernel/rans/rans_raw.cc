#include <algorithm>
#include <bit>

#include "kvplane/kernel/rans/rans_driver.h"

namespace kvplane::kernel {
namespace {

// Bits of a symbol: ceil(log2(2 m + 1)).
uint32_t SymbolBits(RansRung rung) {
  return static_cast<uint32_t>(std::bit_width(2u * kRansClassTable[rung.rans_class()].half_range));
}

uint32_t Plane(const uint32_t* values, uint32_t live, uint32_t bit) {
  uint32_t word = 0;
  for (uint32_t lane = 0; lane < live; ++lane) word |= (values[lane] >> bit & 1) << lane;
  return word;
}

}  // namespace

size_t RansRawBytes(const RansShape& shape) {
  size_t words = 0;
  for (uint32_t g = 0; g < shape.groups(); ++g) words += SymbolBits(shape.rungs[g]);
  return words * sizeof(uint32_t) * shape.tokens + RansBypassBytes(shape);
}

void EncodeRansRaw(const RansShape& shape, const int16_t* levels, std::byte* out) {
  std::byte* bypass = out + RansRawBytes(shape) - RansBypassBytes(shape);
  for (size_t step = 0; step < shape.steps(); ++step) {
    const auto g = static_cast<uint32_t>(step % shape.groups());
    const RansRung rung = shape.rungs[g];
    const uint32_t live = internal::LiveLanes(shape, g);
    uint32_t codes[kRansLanes];  // symbol << bypass | low bits
    for (uint32_t lane = 0; lane < live; ++lane) {
      const int32_t level = levels[step * kRansLanes + lane];
      codes[lane] =
          static_cast<uint32_t>(std::clamp(level, rung.min_level(), rung.max_level()) - rung.min_level());
    }
    for (uint32_t j = 0; j < SymbolBits(rung); ++j, out += sizeof(uint32_t)) {
      base::StoreLe(out, Plane(codes, live, rung.bypass() + j));
    }
    for (uint32_t j = 0; j < rung.bypass(); ++j, bypass += sizeof(uint32_t)) {
      base::StoreLe(bypass, Plane(codes, live, j));
    }
  }
}

bool DecodeRansRaw(const RansShape& shape, std::span<const std::byte> in, int16_t* levels) {
  if (in.size() != RansRawBytes(shape)) return false;
  const std::byte* at = in.data();
  const std::byte* bypass = at + in.size() - RansBypassBytes(shape);
  for (size_t step = 0; step < shape.steps(); ++step) {
    const auto g = static_cast<uint32_t>(step % shape.groups());
    const RansRung rung = shape.rungs[g];
    const uint32_t live = internal::LiveMask(internal::LiveLanes(shape, g));
    int32_t codes[kRansLanes] = {};
    for (uint32_t j = 0; j < SymbolBits(rung) + rung.bypass(); ++j) {
      const std::byte*& from = j < rung.bypass() ? bypass : at;
      const auto plane = base::LoadLe<uint32_t>(from);
      from += sizeof(uint32_t);
      if ((plane & ~live) != 0) return false;
      for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
        codes[lane] |= static_cast<int32_t>(plane >> lane & 1) << j;
      }
    }
    for (uint32_t lane = 0; lane < kRansLanes; ++lane) {
      const int32_t level = codes[lane] + rung.min_level();
      if (level > rung.max_level()) return false;
      levels[step * kRansLanes + lane] = static_cast<int16_t>((live >> lane & 1) != 0 ? level : 0);
    }
  }
  return true;
}

}  // namespace kvplane::kernel
