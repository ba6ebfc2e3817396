// The table of presets: plain ones, published methods, then our own combinations.
#include <algorithm>

#include "kvplane/codec/strategy.h"

namespace kvplane::codec {
namespace {

constexpr Preset kPresets[] = {
    {"off", "store", "uncompressed, but framed and checked", ""},
    {"lossless", "exponent(mode=window)", "bit-exact, 12 bits per value: 4-bit exponents in a window", ""},
    {"fp8", "fp8(format=e4m3,scale=head) | pack", "FP8 E4M3 with a scale per head of a tile", ""},
    {"int8", "affine(bits=8,group=64) | pack", "8-bit codes, keys by channel, values by token", ""},
    {"int4", "affine(bits=4,group=64) | pack", "4-bit codes, keys by channel, values by token", ""},
    {"int2", "affine(bits=2,group=32) | pack", "2-bit codes, keys by channel, values by token", ""},
    {"kivi-4", "affine(bits=4,group=32) | pack", "KIVI's 4-bit quantiser at its published group of 32",
     "KIVI, Liu et al., ICML 2024"},
    {"kivi-2", "affine(bits=2,group=32) | pack", "KIVI's 2-bit quantiser at its published group of 32",
     "KIVI, Liu et al., ICML 2024"},
};

}  // namespace

std::span<const Preset> Presets() { return kPresets; }

const Preset* FindPreset(std::string_view name) {
  const auto at = std::find_if(std::begin(kPresets), std::end(kPresets),
                               [name](const Preset& preset) { return preset.name == name; });
  return at == std::end(kPresets) ? nullptr : at;
}

}  // namespace kvplane::codec
