// Quantisers with a fixed codebook of signed magnitudes and a scale per vector or block of bf16 values:
//
//   lloyd   Lloyd-Max quantiser of the normal distribution, scaled by the vector (TurboQuant-mse, ICLR 2026;
//           Max, IRE Trans. IT 1960), with a norm that makes the decoded vector as long as the coded one
//   nvfp4   E2M1 in blocks of 16 with an E4M3 scale and one binary32 scale per tile (NVIDIA NVFP4)
//   mxfp4   E2M1 in blocks of 32 with a power of two (OCP Microscaling Formats, v1.0)
//
// A value x is compared with the scaled thresholds of the codebook (the midpoints): since x is a bf16 and the
// thresholds are binary32, whole bf16 patterns decide, and one definition serves all instruction sets. All
// arithmetic is binary32, round to nearest even, subnormals kept, without contraction: the same bytes
// everywhere. Formulas: kvplane/codec/lloyd/spec.md, kvplane/codec/fp4/spec.md.
//
// Rows: [tokens], each [channels] bf16, anywhere. Symbols: [tokens, channels]. Scales: without alignment.
// Preconditions: tokens >= 1, 1 <= channels <= 1024; decoders: symbols below 2^bits (16 for fp4), scales that
// passed the caller's checks. Thread safety: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kvplane/kernel/isa.h"

namespace kvplane::kernel {

constexpr uint32_t kMaxLloydBits = 4;
constexpr uint32_t kNvfp4Block = 16;
constexpr uint32_t kMxfp4Block = 32;

// The magnitudes of a codebook, rising; those past 2^(bits - 1) are 0.
using Magnitudes = std::array<float, 8>;
// Of the Lloyd-Max quantiser of N(0, 1). bits 1..4.
const Magnitudes& LloydMagnitudes(uint32_t bits);
// 0, 0.5, 1, 1.5, 2, 3, 4, 6.
const Magnitudes& E2m1Magnitudes();

// Bounds that decoders hold scales to; encoders stay within them.
constexpr uint16_t kLloydNormLimit = 0x5f80;  // below 2^64 (bf16 pattern)
constexpr float kNvfp4TensorScaleLimit = 0x1p126f / 2688.0f;
constexpr uint8_t kNvfp4ScaleLimit = 0x7e;  // at most 448: no sign, no NaN (E4M3 code)
constexpr uint8_t kMxfp4ScaleLimit = 250;   // at most 2^123 (biased exponent)

// The tensor scale of NVFP4 for values up to the bf16 magnitude pattern `largest`, which is below 2^126.
float Nvfp4TensorScale(uint16_t largest);

struct CodebookKernels {
  // norms: [tokens] bf16. False: a vector whose sum of squares is 2^126 and more, or not finite.
  bool (*encode_lloyd)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, uint32_t bits,
                       std::byte* norms, uint8_t* symbols);
  void (*decode_lloyd)(const std::byte* norms, const uint8_t* symbols, uint32_t tokens, uint32_t channels,
                       uint32_t bits, uint16_t* const* rows);

  // scales: [tokens, ceil(channels / 16)] E4M3. Magnitudes are those `tensor_scale` was made for.
  void (*encode_nvfp4)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, float tensor_scale,
                       std::byte* scales, uint8_t* symbols);
  void (*decode_nvfp4)(const std::byte* scales, const uint8_t* symbols, uint32_t tokens, uint32_t channels,
                       float tensor_scale, uint16_t* const* rows);

  // scales: [tokens, ceil(channels / 32)] biased exponents. False: a magnitude of 2^126 or more, or not
  // finite.
  bool (*encode_mxfp4)(const uint16_t* const* rows, uint32_t tokens, uint32_t channels, std::byte* scales,
                       uint8_t* symbols);
  void (*decode_mxfp4)(const std::byte* scales, const uint8_t* symbols, uint32_t tokens, uint32_t channels,
                       uint16_t* const* rows);
};

const CodebookKernels& Codebooks(Isa isa);  // requires: `isa` is available
const CodebookKernels& Codebooks();         // of ActiveIsa()

}  // namespace kvplane::kernel
