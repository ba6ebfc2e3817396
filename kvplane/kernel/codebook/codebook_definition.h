// The codebook quantisers on single vectors and blocks: the definition. The scalar and the AVX2 kernels are
// these loops, compiled for their instruction sets; the AVX-512 kernels are tested against them.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/codebook/codebook.h"
#include "kvplane/kernel/narrow/narrow_definition.h"
#include "kvplane/tensor/dtype.h"

#define KVPLANE_CODEBOOK_INLINE inline __attribute__((always_inline))

namespace kvplane::kernel::internal {

// codebook_test.cc derives them.
inline constexpr std::array<Magnitudes, kMaxLloydBits> kLloydMagnitudes = {{
    {0.797884561f},
    {0.452780035f, 1.510417608f},
    {0.245094179f, 0.756005281f, 1.343909279f, 2.151945705f},
    {0.128395030f, 0.388048299f, 0.656759119f, 0.942340456f, 1.256231197f, 1.618046386f, 2.069017227f,
     2.732589571f},
}};
inline constexpr Magnitudes kE2m1Magnitudes = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

// A value has magnitude j or more when its magnitude is threshold[j] or more; threshold[0] is not looked at.
// bf16 patterns; kNever is above those of finite values. Signed, as AVX2 compares.
constexpr int16_t kNever = 0x7fff;
using Thresholds = std::array<int16_t, 8>;

// The midpoints of the magnitudes; +infinity where there is none.
constexpr Magnitudes MidpointsOf(const Magnitudes& magnitudes) {
  Magnitudes midpoints{};
  for (size_t j = 1; j < 8; ++j) {
    midpoints[j] = magnitudes[j] == 0 ? std::numeric_limits<float>::infinity()
                                      : (magnitudes[j - 1] + magnitudes[j]) * 0.5f;
  }
  return midpoints;
}
inline constexpr std::array<Magnitudes, kMaxLloydBits> kLloydMidpoints = {
    MidpointsOf(kLloydMagnitudes[0]), MidpointsOf(kLloydMagnitudes[1]), MidpointsOf(kLloydMagnitudes[2]),
    MidpointsOf(kLloydMagnitudes[3])};
inline constexpr Magnitudes kE2m1Midpoints = MidpointsOf(kE2m1Magnitudes);

// What is added to a binary32 pattern before its upper half is taken: a bf16 magnitude is >= the midpoint
// from the half rounded up on (kAtLeast), > from the next one above the half cut off (kAbove). E2M1 rounds
// ties to the even magnitude: between an even and an odd one the midpoint is still the even one.
constexpr uint32_t kAtLeast = 0xffff;
constexpr uint32_t kAbove = 0x10000;
inline constexpr std::array<uint32_t, 8> kE2m1Rounding = {kAtLeast, kAbove, kAtLeast, kAbove,
                                                          kAtLeast, kAbove, kAtLeast, kAbove};

// Squares of the magnitudes in 1/4096, so that the length of a decoded vector is a sum of integers.
constexpr float kEnergyUnit = 0x1p-12f;
constexpr std::array<uint16_t, 8> EnergiesOf(const Magnitudes& magnitudes) {
  std::array<uint16_t, 8> energies{};
  for (size_t j = 0; j < 8; ++j) {
    energies[j] = static_cast<uint16_t>(magnitudes[j] * magnitudes[j] * 4096.0f + 0.5f);
  }
  return energies;
}
inline constexpr std::array<std::array<uint16_t, 8>, kMaxLloydBits> kLloydEnergies = {
    EnergiesOf(kLloydMagnitudes[0]), EnergiesOf(kLloydMagnitudes[1]), EnergiesOf(kLloydMagnitudes[2]),
    EnergiesOf(kLloydMagnitudes[3])};

// Vectors with smaller sums of squares are coded as zero: what is left of them in binary32 has no direction.
constexpr float kLloydLeastSquares = 0x1p-100f;
constexpr float kLloydSquaresLimit = 0x1p126f;
// Least tensor scale above 0: scales of blocks and their reciprocals stay normal numbers.
constexpr float kNvfp4LeastTensorScale = 0x1p-110f;

KVPLANE_CODEBOOK_INLINE float FromPattern(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }
KVPLANE_CODEBOOK_INLINE uint16_t RoundToPattern(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
KVPLANE_CODEBOOK_INLINE int16_t MagnitudeOf(uint16_t x, const Thresholds& thresholds) {
  const auto magnitude = static_cast<int16_t>(x & 0x7fffu);
  int16_t index = 0;
  for (size_t j = 1; j < 8; ++j) index = static_cast<int16_t>(index + (magnitude >= thresholds[j] ? 1 : 0));
  return index;
}

// The magnitudes of a run of values, count <= kRun; whole runs become vectors.
constexpr uint32_t kRun = 32;
KVPLANE_CODEBOOK_INLINE void MagnitudesOf(const uint16_t* values, uint32_t count,
                                          const Thresholds& thresholds, int16_t* indices) {
  if (count < kRun) {
    for (uint32_t i = 0; i < count; ++i) indices[i] = MagnitudeOf(values[i], thresholds);
    return;
  }
  for (uint32_t i = 0; i < kRun; ++i) indices[i] = MagnitudeOf(values[i], thresholds);
}

// ---- lloyd

// The norm that goes with the sum of squares of a vector and the energy of its symbols.
inline uint16_t LloydNorm(float squares, uint32_t energy) {
  return RoundToPattern(std::sqrt(squares / (static_cast<float>(energy) * kEnergyUnit)));
}

// In 32 lanes, value i in lane i % 32; then neighbours are added, then halves.
KVPLANE_CODEBOOK_INLINE float SumOfSquares(const uint16_t* row, uint32_t channels) {
  float lanes[32] = {};
  uint32_t c = 0;
  for (; c + 32 <= channels; c += 32) {
    for (uint32_t i = 0; i < 32; ++i) lanes[i] += FromPattern(row[c + i]) * FromPattern(row[c + i]);
  }
  for (; c < channels; ++c) lanes[c % 32] += FromPattern(row[c]) * FromPattern(row[c]);
  for (uint32_t i = 0; i < 16; ++i) lanes[i] = lanes[2 * i] + lanes[2 * i + 1];
  for (uint32_t width = 8; width > 0; width /= 2) {
    for (uint32_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

KVPLANE_CODEBOOK_INLINE bool EncodeLloydBody(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                             uint32_t bits, std::byte* norms, uint8_t* symbols) {
  const Magnitudes& midpoints = kLloydMidpoints[bits - 1];
  const std::array<uint16_t, 8>& energies = kLloydEnergies[bits - 1];
  const int half = 1 << (bits - 1);
  const float inverse_channels = 1.0f / static_cast<float>(channels);
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    const uint16_t* row = rows[t];
    const float squares = SumOfSquares(row, channels);
    if (!(squares < kLloydSquaresLimit)) return false;
    const bool zero = squares < kLloydLeastSquares;
    const float deviation = std::sqrt(squares * inverse_channels);
    Thresholds thresholds;
    for (size_t j = 1; j < 8; ++j) {
      const uint32_t pattern = std::bit_cast<uint32_t>(midpoints[j] * deviation);
      thresholds[j] = zero ? kNever : static_cast<int16_t>((pattern + kAtLeast) >> 16);
    }
    uint32_t energy = 0;
    for (uint32_t c = 0; c < channels; c += kRun) {
      const uint32_t count = std::min(kRun, channels - c);
      int16_t indices[kRun];
      MagnitudesOf(row + c, count, thresholds, indices);
      for (uint32_t i = 0; i < count; ++i) {
        energy += energies[static_cast<size_t>(indices[i])];
        const int below = row[c + i] >> 15;  // -1 - index below zero
        symbols[c + i] = static_cast<uint8_t>(half + (indices[i] ^ -below));
      }
    }
    base::StoreLe(norms + t * sizeof(uint16_t), zero ? uint16_t{0} : LloydNorm(squares, energy));
  }
  return true;
}

KVPLANE_CODEBOOK_INLINE void DecodeLloydBody(const std::byte* norms, const uint8_t* symbols, uint32_t tokens,
                                             uint32_t channels, uint32_t bits, uint16_t* const* rows) {
  const Magnitudes& magnitudes = kLloydMagnitudes[bits - 1];
  const uint32_t half = 1u << (bits - 1);
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    const float norm = FromPattern(base::LoadLe<uint16_t>(norms + t * sizeof(uint16_t)));
    std::array<uint16_t, 16> values;
    for (uint32_t j = 0; j < half; ++j) {
      const uint16_t value = RoundToPattern(magnitudes[j] * norm);
      values[half + j] = value;
      values[half - 1 - j] = static_cast<uint16_t>(value | 0x8000u);
    }
    for (uint32_t c = 0; c < channels; ++c) rows[t][c] = values[symbols[c]];
  }
}

// ---- fp4: symbol = E2M1 code, the sign in bit 3

KVPLANE_CODEBOOK_INLINE void EncodeE2m1Block(const uint16_t* values, uint32_t count, float scale,
                                             uint8_t* symbols) {
  Thresholds thresholds;
  for (size_t j = 1; j < 8; ++j) {
    const uint32_t pattern = std::bit_cast<uint32_t>(kE2m1Midpoints[j] * scale);
    thresholds[j] = scale == 0.0f ? kNever : static_cast<int16_t>((pattern + kE2m1Rounding[j]) >> 16);
  }
  int16_t indices[kRun];
  MagnitudesOf(values, count, thresholds, indices);
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = static_cast<uint8_t>(indices[i] | (values[i] >> 12 & 8));
  }
}

KVPLANE_CODEBOOK_INLINE void DecodeE2m1Block(const uint8_t* symbols, uint32_t count, float scale,
                                             uint16_t* values) {
  std::array<uint16_t, 16> of_symbol;
  for (size_t j = 0; j < 8; ++j) {
    of_symbol[j] = RoundToPattern(kE2m1Magnitudes[j] * scale);
    of_symbol[8 + j] = static_cast<uint16_t>(of_symbol[j] | 0x8000u);
  }
  for (uint32_t i = 0; i < count; ++i) values[i] = of_symbol[symbols[i]];
}

KVPLANE_CODEBOOK_INLINE uint16_t LargestOf(const uint16_t* values, uint32_t count) {
  uint16_t largest = 0;
  for (uint32_t i = 0; i < count; ++i) {
    largest = std::max(largest, static_cast<uint16_t>(values[i] & 0x7fffu));
  }
  return largest;
}

// RN(RN(1/6) / scale): what turns the largest magnitude of a block into its scale.
inline float Nvfp4InverseOf(float tensor_scale) {
  return tensor_scale == 0.0f ? 0.0f : (1.0f / 6.0f) / tensor_scale;
}

KVPLANE_CODEBOOK_INLINE void EncodeNvfp4Body(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                             float tensor_scale, std::byte* scales, uint8_t* symbols) {
  const float inverse = Nvfp4InverseOf(tensor_scale);
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    for (uint32_t c = 0; c < channels; c += kNvfp4Block) {
      const uint32_t count = std::min(kNvfp4Block, channels - c);
      const uint8_t code = E4m3Format::Code(FromPattern(LargestOf(rows[t] + c, count)) * inverse);
      *scales++ = static_cast<std::byte>(code);
      EncodeE2m1Block(rows[t] + c, count, E4m3Format::Value(code) * tensor_scale, symbols + c);
    }
  }
}

KVPLANE_CODEBOOK_INLINE void DecodeNvfp4Body(const std::byte* scales, const uint8_t* symbols, uint32_t tokens,
                                             uint32_t channels, float tensor_scale, uint16_t* const* rows) {
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    for (uint32_t c = 0; c < channels; c += kNvfp4Block) {
      const float scale = E4m3Format::Value(static_cast<uint8_t>(*scales++)) * tensor_scale;
      DecodeE2m1Block(symbols + c, std::min(kNvfp4Block, channels - c), scale, rows[t] + c);
    }
  }
}

// 2^(exponent - 127); for 0 that is subnormal.
KVPLANE_CODEBOOK_INLINE float Mxfp4Scale(uint32_t exponent) {
  return std::bit_cast<float>(exponent == 0 ? 0x00400000u : exponent << 23);
}

KVPLANE_CODEBOOK_INLINE bool EncodeMxfp4Body(const uint16_t* const* rows, uint32_t tokens, uint32_t channels,
                                             std::byte* scales, uint8_t* symbols) {
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    for (uint32_t c = 0; c < channels; c += kMxfp4Block) {
      const uint32_t count = std::min(kMxfp4Block, channels - c);
      const uint16_t largest = LargestOf(rows[t] + c, count);
      if (largest >= kNarrowMagnitudeLimit) return false;
      const uint32_t exponent = std::max<uint32_t>(largest >> 7, 2) - 2;
      *scales++ = static_cast<std::byte>(exponent);
      EncodeE2m1Block(rows[t] + c, count, Mxfp4Scale(exponent), symbols + c);
    }
  }
  return true;
}

KVPLANE_CODEBOOK_INLINE void DecodeMxfp4Body(const std::byte* scales, const uint8_t* symbols, uint32_t tokens,
                                             uint32_t channels, uint16_t* const* rows) {
  for (uint32_t t = 0; t < tokens; ++t, symbols += channels) {
    for (uint32_t c = 0; c < channels; c += kMxfp4Block) {
      DecodeE2m1Block(symbols + c, std::min(kMxfp4Block, channels - c),
                      Mxfp4Scale(static_cast<uint32_t>(*scales++)), rows[t] + c);
    }
  }
}

extern const CodebookKernels kCodebookScalar;
extern const CodebookKernels kCodebookAvx2;
extern const CodebookKernels kCodebookAvx512;

}  // namespace kvplane::kernel::internal
