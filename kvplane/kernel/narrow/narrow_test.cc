#include "kvplane/kernel/narrow/narrow.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

constexpr NarrowFormat kFormats[] = {NarrowFormat::kInt8, NarrowFormat::kE4m3, NarrowFormat::kE5m2};

// The value of a code from the definition of its format; NaN where it has none.
double ValueByDefinition(NarrowFormat format, uint32_t code) {
  if (format == NarrowFormat::kInt8) return code < 128 ? code : static_cast<double>(code) - 256.0;
  const int mantissa_bits = format == NarrowFormat::kE4m3 ? 3 : 2;
  const int bias = format == NarrowFormat::kE4m3 ? 7 : 15;
  const auto mantissa = static_cast<int>(code & ((1u << mantissa_bits) - 1));
  const auto exponent = static_cast<int>((code & 0x7f) >> mantissa_bits);
  const double sign = code < 128 ? 1 : -1;
  if (format == NarrowFormat::kE4m3 && (code & 0x7f) == 0x7f) return std::nan("");
  if (format == NarrowFormat::kE5m2 && exponent == 31) return std::nan("");
  const double one = 1 << mantissa_bits;
  if (exponent == 0) return sign * std::ldexp(mantissa / one, 1 - bias);
  return sign * std::ldexp(1 + mantissa / one, exponent - bias);
}

TEST(NarrowUnit, EveryCodeHasItsValueAndComesBack) {
  for (const Isa isa : AvailableIsas()) {
    const NarrowKernels& kernels = Narrow(isa);
    for (const NarrowFormat format : kFormats) {
      const auto f = static_cast<size_t>(format);
      for (uint32_t code = 0; code < 256; ++code) {
        const auto byte = static_cast<std::byte>(code);
        const double expected = ValueByDefinition(format, code);
        const bool legal = !std::isnan(expected) && (format != NarrowFormat::kInt8 || code != 0x80);
        ASSERT_EQ(kernels.codes_valid[f](&byte, 1), legal) << code;
        if (!legal) continue;
        uint16_t value = 0;
        uint16_t* out[] = {&value};
        kernels.decode[f](&byte, 1, 1, 1.0f, out);
        ASSERT_EQ(tensor::Bf16ToFloat(value), expected) << code;
        const uint16_t* in[] = {&value};
        std::byte back{};
        kernels.encode[f](in, 1, 1, 1.0f, &back);
        ASSERT_EQ(back, byte) << "format " << f << ", code " << code;
      }
    }
  }
}

// Brute force over all finite bf16: the code is a nearest one, an even one on a tie, saturated at the ends.
TEST(NarrowUnit, CodesAreNearestTiesToEven) {
  for (const NarrowFormat format : kFormats) {
    const auto f = static_cast<size_t>(format);
    for (uint32_t pattern = 0; pattern < 0x8000; ++pattern) {
      const auto x = static_cast<uint16_t>(pattern);
      if (x >= kNarrowMagnitudeLimit) break;
      const uint16_t* in[] = {&x};
      std::byte code{};
      Narrow(Isa::kScalar).encode[f](in, 1, 1, 1.0f, &code);
      const auto got = static_cast<uint32_t>(code);
      const double v = tensor::Bf16ToFloat(x);
      const double error = std::abs(ValueByDefinition(format, got) - v);
      ASSERT_LT(got, 128u);
      for (const uint32_t other : {got - 1, got + 1}) {
        if (other > 127) continue;
        const double value = ValueByDefinition(format, other);
        if (std::isnan(value)) continue;
        if (v > ValueByDefinition(format, got) && other < got) continue;  // on the other side
        const double other_error = std::abs(value - v);
        ASSERT_TRUE(error < other_error || (error == other_error && got % 2 == 0)) << pattern;
      }
    }
  }
}

TEST(NarrowUnit, ScalesByHand) {
  // 127 / 127; 254 / 127; 1 / 127 = 0.007874 up to 0x3c02 (0.00793457); 448 and 57344 over themselves.
  EXPECT_EQ(NarrowScaleOf(NarrowFormat::kInt8, 0x42fe), 0x3f80);
  EXPECT_EQ(NarrowScaleOf(NarrowFormat::kInt8, 0x437e), 0x4000);
  EXPECT_EQ(NarrowScaleOf(NarrowFormat::kInt8, 0x3f80), 0x3c02);
  EXPECT_EQ(NarrowScaleOf(NarrowFormat::kE4m3, 0x43e0), 0x3f80);
  EXPECT_EQ(NarrowScaleOf(NarrowFormat::kE5m2, 0x4760), 0x3f80);
  EXPECT_EQ(NarrowScaleOf(NarrowFormat::kE5m2, 0x0001), 0x0080);
  EXPECT_EQ(NarrowScaleOf(NarrowFormat::kE5m2, 0), 0);
}

TEST(NarrowDiff, EveryIsaGivesTheScalarBytes) {
  base::Rng rng(41);
  const NarrowKernels& scalar = Narrow(Isa::kScalar);
  for (int round = 0; round < 300; ++round) {
    const NarrowFormat format = kFormats[rng.Below(3)];
    const auto f = static_cast<size_t>(format);
    const auto channels = static_cast<uint32_t>(1 + rng.Below(200));
    std::vector<uint16_t> values(channels), back(channels), back2(channels);
    const bool any = rng.Below(2) == 0;
    for (uint16_t& v : values) {
      v = any ? static_cast<uint16_t>(rng.Next()) : tensor::FloatToBf16(static_cast<float>(rng.Normal()));
      if ((v & 0x7fff) >= kNarrowMagnitudeLimit) v = 0x8000;
    }
    const uint16_t* rows[] = {values.data()};
    const uint16_t largest = scalar.largest_magnitude(rows, 1, channels);
    const uint16_t scale = NarrowScaleOf(format, largest);
    ASSERT_LE(scale, NarrowScaleLimit(format));
    std::vector<std::byte> codes(channels), codes2(channels);
    uint16_t* out[] = {back.data()};
    uint16_t* out2[] = {back2.data()};
    scalar.encode[f](rows, 1, channels, NarrowInverseOf(scale), codes.data());
    scalar.decode[f](codes.data(), 1, channels, tensor::Bf16ToFloat(scale), out);
    ASSERT_TRUE(scalar.codes_valid[f](codes.data(), channels));
    for (const uint16_t v : back) ASSERT_LT(v & 0x7fff, 0x7f80);
    for (const Isa isa : AvailableIsas()) {
      const NarrowKernels& kernels = Narrow(isa);
      ASSERT_EQ(kernels.largest_magnitude(rows, 1, channels), largest);
      const uint16_t* twice[] = {values.data(), values.data() + channels / 2};
      uint16_t of_tokens[2];
      kernels.largest_of_tokens(twice, 2, channels - channels / 2, of_tokens);
      ASSERT_EQ(of_tokens[0], scalar.largest_magnitude(twice, 1, channels - channels / 2));
      ASSERT_EQ(of_tokens[1], scalar.largest_magnitude(twice + 1, 1, channels - channels / 2));
      ASSERT_EQ(kernels.largest_magnitude(twice, 2, channels - channels / 2), largest);
      kernels.encode[f](rows, 1, channels, NarrowInverseOf(scale), codes2.data());
      ASSERT_EQ(codes2, codes);
      kernels.decode[f](codes.data(), 1, channels, tensor::Bf16ToFloat(scale), out2);
      ASSERT_EQ(back2, back);
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
