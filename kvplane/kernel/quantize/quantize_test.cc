#include "kvplane/kernel/quantize/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/kernel/pack/pack.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

constexpr uint32_t kBits[] = {2, 4, 8};

uint16_t Bf16(float x) { return tensor::FloatToBf16(x); }

// A vector of memory, which begins as what nobody writes.
struct alignas(64) Line {
  Line() { values.fill(0xbeef); }
  std::array<uint16_t, 32> values;
  bool operator==(const Line&) const = default;
};

// Rows of [tokens, channels] bf16 with a gap between rows, as in a page; aligned: each begins with a vector.
struct Rows {
  Rows(uint32_t tokens_in, uint32_t channels_in, bool aligned = false)
      : tokens(tokens_in), channels(channels_in) {
    const size_t stride = aligned ? (size_t{channels} + 31) / 32 * 32 : channels + 3;
    memory.resize((tokens * stride + 31) / 32);
    for (uint32_t t = 0; t < tokens; ++t) {
      rows.push_back(memory.data()->values.data() + t * stride);
      std::fill_n(rows.back(), channels, uint16_t{0});
    }
  }
  const uint16_t* const* read() const { return const_cast<const uint16_t* const*>(rows.data()); }

  uint32_t tokens, channels;
  std::vector<Line> memory;
  std::vector<uint16_t*> rows;
};

// Exactly sized buffers, so that ASan sees a store or load one byte outside.
struct Coded {
  bool ok = false;
  std::vector<std::byte> zeros, scales, codes;
  bool operator==(const Coded&) const = default;
};

// group 0: axis = channel. top 0: all codes of the width.
Coded Encode(Isa isa, const Rows& in, uint32_t bits, uint32_t group, uint32_t top = 0) {
  if (top == 0) top = (1u << bits) - 1;
  const QuantizeKernels& kernels = Quantize(isa);
  const size_t width = QuantizeKernels::WidthIndex(bits);
  const size_t params = group == 0 ? in.channels : size_t{in.tokens} * ((in.channels + group - 1) / group);
  Coded out;
  out.zeros.resize(2 * params);
  out.scales.resize(2 * params);
  out.codes.resize(in.tokens * PackedRowBytes(in.channels, bits));
  // What lies ahead is fetched, never used: any distance will do.
  const size_t ahead = in.tokens % 2 == 0 ? 0 : 2048;
  out.ok = group == 0 ? kernels.encode_channels[width](in.read(), in.tokens, in.channels, top, ahead,
                                                       out.zeros.data(), out.scales.data(), out.codes.data())
                      : kernels.encode_tokens[width](in.read(), in.tokens, in.channels, group, top, ahead,
                                                     out.zeros.data(), out.scales.data(), out.codes.data());
  return out;
}

void Decode(Isa isa, const Coded& in, uint32_t bits, uint32_t group, Rows& out, bool streaming = false) {
  const QuantizeKernels& kernels = Quantize(isa);
  const size_t width = QuantizeKernels::WidthIndex(bits);
  if (group == 0) {
    kernels.decode_channels[width](in.zeros.data(), in.scales.data(), in.codes.data(), out.tokens,
                                   out.channels, streaming, out.rows.data());
  } else {
    kernels.decode_tokens[width](in.zeros.data(), in.scales.data(), in.codes.data(), out.tokens, out.channels,
                                 group, streaming, out.rows.data());
  }
}

uint16_t Param(const std::vector<std::byte>& plane, size_t index) {
  return static_cast<uint16_t>(static_cast<unsigned>(plane[2 * index]) |
                               static_cast<unsigned>(plane[2 * index + 1]) << 8);
}

enum class Fill { kNormal, kTiny, kHuge, kMixed, kConstant, kPatterns };
constexpr Fill kFills[] = {Fill::kNormal, Fill::kTiny,     Fill::kHuge,
                           Fill::kMixed,  Fill::kConstant, Fill::kPatterns};

void FillRows(base::Rng& rng, Fill fill, Rows& rows) {
  const uint16_t constant = Bf16(static_cast<float>(rng.Normal()));
  for (uint16_t* row : rows.rows) {
    for (uint32_t c = 0; c < rows.channels; ++c) {
      const auto x = static_cast<float>(rng.Normal());
      switch (fill) {
        case Fill::kNormal:
          row[c] = Bf16(x + (c % 7 == 0 ? 12.0f : 0.0f));
          break;
        case Fill::kTiny:  // subnormals and zeros of both signs
          row[c] = static_cast<uint16_t>(rng.Next() & 0x80ffu);
          break;
        case Fill::kHuge:
          row[c] = Bf16(x * 0x1p123f);
          break;
        case Fill::kMixed:
          row[c] = Bf16(std::ldexp(x, static_cast<int>(rng.Below(240)) - 120));
          break;
        case Fill::kConstant:
          row[c] = constant;
          break;
        case Fill::kPatterns:  // any codable pattern
          row[c] = static_cast<uint16_t>(rng.Below(kAffineMagnitudeLimit) | (rng.Next() & 0x8000u));
          break;
      }
    }
  }
}

TEST(QuantizeUnit, FourBitChannelByHand) {
  // One channel holds 0, 3, 7.5, 15: zero 0, scale 1, codes 0, 3, 8 (ties to even), 15.
  Rows in(4, 1);
  in.rows[0][0] = Bf16(0.0f);
  in.rows[1][0] = Bf16(3.0f);
  in.rows[2][0] = Bf16(7.5f);
  in.rows[3][0] = Bf16(15.0f);
  for (const Isa isa : AvailableIsas()) {
    const Coded coded = Encode(isa, in, 4, 0);
    ASSERT_TRUE(coded.ok);
    EXPECT_EQ(Param(coded.zeros, 0), 0);
    EXPECT_EQ(Param(coded.scales, 0), Bf16(1.0f));
    EXPECT_EQ(coded.codes, (std::vector<std::byte>{std::byte{0}, std::byte{3}, std::byte{8}, std::byte{15}}));
  }
}

TEST(QuantizeUnit, TwoBitTokenByHand) {
  // -1, 0, 1, 2 are the codes 0..3 of zero -1 and scale 1.
  Rows in(1, 8);
  const float values[] = {-1, 0, 1, 2, 2, 1, 0, -1};
  for (uint32_t c = 0; c < 8; ++c) in.rows[0][c] = Bf16(values[c]);
  for (const Isa isa : AvailableIsas()) {
    const Coded coded = Encode(isa, in, 2, 8);
    ASSERT_TRUE(coded.ok);
    EXPECT_EQ(Param(coded.zeros, 0), Bf16(-1.0f));
    EXPECT_EQ(coded.codes, (std::vector<std::byte>{std::byte{0b11'10'01'00}, std::byte{0b00'01'10'11}}));
  }
}

TEST(QuantizeUnit, SixLevelsByHand) {
  // Top 5 over [0, 10]: scale 2; 1 and 5 are ties to even, 10 is the top code.
  Rows in(1, 8);
  const float values[] = {0, 1, 2, 3.5f, 5, 7, 9.5f, 10};
  for (uint32_t c = 0; c < 8; ++c) in.rows[0][c] = Bf16(values[c]);
  for (const Isa isa : AvailableIsas()) {
    const Coded coded = Encode(isa, in, 8, 8, 5);
    ASSERT_TRUE(coded.ok);
    EXPECT_EQ(Param(coded.scales, 0), Bf16(2.0f));
    const uint8_t codes[] = {0, 0, 1, 2, 2, 4, 5, 5};
    for (size_t c = 0; c < 8; ++c) EXPECT_EQ(coded.codes[c], static_cast<std::byte>(codes[c])) << c;
  }
}

TEST(QuantizeUnit, ConstantGroupsAreExact) {
  Rows in(5, 16), out(5, 16);
  for (uint16_t* row : in.rows) std::fill_n(row, 16, Bf16(-3.25f));
  for (const Isa isa : AvailableIsas()) {
    for (const uint32_t group : {0u, 8u}) {
      const Coded coded = Encode(isa, in, 4, group);
      ASSERT_TRUE(coded.ok);
      EXPECT_EQ(Param(coded.scales, 3), 0);
      Decode(isa, coded, 4, group, out);
      EXPECT_EQ(out.memory, in.memory);
    }
  }
}

TEST(QuantizeUnit, RefusesWhatItCannotHold) {
  const uint16_t bad[] = {0x7f80, 0xff80, 0x7fc0, 0xffc1, 0x7f81, kAffineMagnitudeLimit, 0xfe80};
  for (const Isa isa : AvailableIsas()) {
    for (const uint16_t pattern : bad) {
      for (const uint32_t bits : kBits) {
        for (uint32_t c = 0; c < 40; ++c) {
          Rows in(3, 40);
          in.rows[c % 3][c] = pattern;
          EXPECT_FALSE(Encode(isa, in, bits, 0).ok) << Name(isa) << " " << pattern << " at " << c;
          EXPECT_FALSE(Encode(isa, in, bits, 16).ok) << Name(isa) << " " << pattern << " at " << c;
        }
        for (uint32_t row = 0; row < 70; row += 3) {  // groups of whole vectors, in every batch of rows
          Rows in(70, 64);
          in.rows[row][row % 64] = pattern;
          EXPECT_FALSE(Encode(isa, in, bits, 32).ok) << Name(isa) << " " << pattern << " in row " << row;
        }
      }
    }
  }
}

TEST(QuantizeUnit, ParamsValidSeesEveryPosition) {
  for (const Isa isa : AvailableIsas()) {
    for (size_t count = 0; count < 70; ++count) {
      std::vector<std::byte> zeros(2 * count), scales(2 * count);
      EXPECT_TRUE(Quantize(isa).params_valid(zeros.data(), scales.data(), count, 0x4000));
      for (size_t i = 0; i < count; ++i) {
        scales[2 * i + 1] = std::byte{0x40};
        EXPECT_TRUE(Quantize(isa).params_valid(zeros.data(), scales.data(), count, 0x4000));
        scales[2 * i] = std::byte{1};
        EXPECT_FALSE(Quantize(isa).params_valid(zeros.data(), scales.data(), count, 0x4000));
        scales[2 * i] = scales[2 * i + 1] = std::byte{0};
        zeros[2 * i + 1] = std::byte{0xfe};
        EXPECT_TRUE(Quantize(isa).params_valid(zeros.data(), scales.data(), count, 0x4000));
        zeros[2 * i] = std::byte{0x80};
        EXPECT_FALSE(Quantize(isa).params_valid(zeros.data(), scales.data(), count, 0x4000));
        zeros[2 * i] = zeros[2 * i + 1] = std::byte{0};
      }
    }
  }
}

TEST(QuantizeDiff, EveryIsaGivesTheSameBytes) {
  base::Rng rng(11);
  for (int round = 0; round < 1500; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(150));
    auto channels = static_cast<uint32_t>(round % 5 == 0 ? 1 + rng.Below(300) : 8 * (1 + rng.Below(16)));
    const uint32_t bits = kBits[rng.Below(3)];
    auto group = static_cast<uint32_t>(8 * rng.Below(17));  // 0: by channel
    if (round % 3 == 0) {                                   // whole vectors
      group = static_cast<uint32_t>(32 * (1 + rng.Below(5)));
      channels = static_cast<uint32_t>(group * (1 + rng.Below(6)));
    }
    const auto top = static_cast<uint32_t>(rng.Below(uint64_t{1} << bits));  // 0: all
    Rows in(tokens, channels);
    FillRows(rng, kFills[rng.Below(std::size(kFills))], in);
    const Coded expected = Encode(Isa::kScalar, in, bits, group, top);
    Rows expected_out(tokens, channels);
    if (expected.ok) Decode(Isa::kScalar, expected, bits, group, expected_out);
    for (const Isa isa : AvailableIsas()) {
      const Coded coded = Encode(isa, in, bits, group, top);
      ASSERT_EQ(coded.ok, expected.ok);
      if (!expected.ok) continue;
      ASSERT_EQ(coded, expected) << Name(isa) << " " << tokens << "x" << channels << " bits " << bits
                                 << " group " << group << " round " << round;
      Rows out(tokens, channels);
      Decode(isa, expected, bits, group, out, round % 3 == 0);
      ASSERT_EQ(out.memory, expected_out.memory) << Name(isa) << " round " << round;
      for (const bool streaming : {false, true}) {
        Rows aligned(tokens, channels, true);
        Decode(isa, expected, bits, group, aligned, streaming);
        for (uint32_t t = 0; t < tokens; ++t) {
          ASSERT_TRUE(std::equal(aligned.rows[t], aligned.rows[t] + channels, expected_out.rows[t]))
              << Name(isa) << " round " << round << " token " << t;
        }
      }
    }
  }
}

TEST(QuantizeDiff, TensorsOnEveryIsa) {
  base::Rng rng(13);
  for (int round = 0; round < 500; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(20));
    const auto channels = static_cast<uint32_t>(1 + rng.Below(150));
    const auto top = static_cast<uint32_t>(1 + rng.Below(255));
    Rows in(tokens, channels);
    FillRows(rng, kFills[rng.Below(std::size(kFills))], in);
    if (rng.Below(5) == 0) in.rows[rng.Below(tokens)][rng.Below(channels)] = 0x7e80;
    std::array<std::byte, 2> zero{}, scale{}, zero2{}, scale2{};
    std::vector<std::byte> codes(size_t{tokens} * channels), codes2(codes.size());
    const bool ok =
        Quantize(Isa::kScalar)
            .encode_tensor(in.read(), tokens, channels, top, zero.data(), scale.data(), codes.data());
    for (const Isa isa : AvailableIsas()) {
      ASSERT_EQ(Quantize(isa).encode_tensor(in.read(), tokens, channels, top, zero2.data(), scale2.data(),
                                            codes2.data()),
                ok);
      if (!ok) continue;
      ASSERT_EQ(zero2, zero);
      ASSERT_EQ(scale2, scale);
      ASSERT_EQ(codes2, codes) << Name(isa) << " " << tokens << "x" << channels << " top " << top;
    }
    if (!ok) continue;
    // One row of all values has the same one group.
    std::vector<uint16_t> joined;
    for (const uint16_t* row : in.rows) joined.insert(joined.end(), row, row + channels);
    const uint16_t* row = joined.data();
    const auto group = static_cast<uint32_t>((joined.size() + 7) / 8 * 8);
    ASSERT_TRUE(Quantize(Isa::kScalar)
                    .encode_tokens[2](&row, 1, static_cast<uint32_t>(joined.size()), group, top, 0,
                                      zero2.data(), scale2.data(), codes2.data()));
    ASSERT_EQ(zero2, zero);
    ASSERT_EQ(scale2, scale);
    ASSERT_EQ(codes2, codes);
  }
}

// |x - value| <= scale / 2 plus the rounding of the output to bf16 (2^-9 of it) and of the binary32 steps.
TEST(QuantizeProperty, ErrorIsBoundedByTheScale) {
  base::Rng rng(12);
  for (int round = 0; round < 400; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(64));
    const auto channels = static_cast<uint32_t>(8 * (1 + rng.Below(16)));
    const uint32_t bits = kBits[rng.Below(3)];
    const auto top = static_cast<uint32_t>(1 + rng.Below((uint64_t{1} << bits) - 1));
    const auto group = static_cast<uint32_t>(8 * rng.Below(9));
    Rows in(tokens, channels), out(tokens, channels);
    FillRows(rng, kFills[rng.Below(std::size(kFills))], in);
    const Coded coded = Encode(ActiveIsa(), in, bits, group, top);
    ASSERT_TRUE(coded.ok);
    Decode(ActiveIsa(), coded, bits, group, out);
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t c = 0; c < channels; ++c) {
        const size_t groups = group == 0 ? 1 : (channels + group - 1) / group;
        const size_t param = group == 0 ? c : t * groups + c / group;
        const double scale = tensor::Bf16ToFloat(Param(coded.scales, param));
        const double zero = tensor::Bf16ToFloat(Param(coded.zeros, param));
        const double x = tensor::Bf16ToFloat(in.rows[t][c]);
        const double y = tensor::Bf16ToFloat(out.rows[t][c]);
        const double arithmetic = 0x1p-20 * (std::fabs(zero) + top * scale);
        ASSERT_LE(std::fabs(x - y), scale / 2 + 0x1p-8 * std::fabs(y) + arithmetic + 0x1p-133)
            << "bits " << bits << " group " << group << " x " << x << " y " << y;
      }
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
