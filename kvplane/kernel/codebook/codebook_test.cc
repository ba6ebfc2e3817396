#include "kvplane/kernel/codebook/codebook.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

uint16_t Bf16(double x) { return tensor::FloatToBf16(static_cast<float>(x)); }
double Value(uint16_t x) { return tensor::Bf16ToFloat(x); }
uint16_t Word(const std::vector<std::byte>& bytes, size_t index) {
  return static_cast<uint16_t>(static_cast<unsigned>(bytes[2 * index]) |
                               static_cast<unsigned>(bytes[2 * index + 1]) << 8);
}

// Rows with a gap between them; the gaps must stay.
struct Rows {
  Rows(uint32_t tokens_in, uint32_t channels_in)
      : tokens(tokens_in), channels(channels_in), memory(size_t{tokens_in} * (channels_in + 1), 0xbeef) {
    for (uint32_t t = 0; t < tokens; ++t) rows.push_back(memory.data() + t * (channels + 1));
  }
  const uint16_t* const* read() const { return const_cast<const uint16_t* const*>(rows.data()); }

  uint32_t tokens, channels;
  std::vector<uint16_t> memory;
  std::vector<uint16_t*> rows;
};

void FillRows(base::Rng& rng, Rows& rows) {
  const uint64_t kind = rng.Below(6);
  const int scale = static_cast<int>(rng.Below(100)) - 50;
  for (uint16_t* row : rows.rows) {
    const uint64_t row_kind = kind == 5 ? rng.Below(5) : kind;
    for (uint32_t c = 0; c < rows.channels; ++c) {
      const double x = rng.Normal();
      row[c] = row_kind == 0   ? Bf16(x)
               : row_kind == 1 ? Bf16(std::ldexp(x, scale))
               : row_kind == 2
                   ? static_cast<uint16_t>(rng.Next() & 0x80ffu)  // subnormals, zeros of both signs
               : row_kind == 3 ? Bf16(c == 3 ? 100 * x : x / 100)
                               : static_cast<uint16_t>(rng.Below(0x7e80) | (rng.Next() & 0x8000u));
    }
  }
}

double Density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }
double Above(double x) { return 0.5 * std::erfc(x / std::numbers::sqrt2); }

// Lloyd's iteration on the normal distribution: each magnitude is the mean of its cell, each threshold the
// midpoint of its magnitudes.
TEST(CodebookUnit, LloydTablesAreDerived) {
  for (uint32_t bits = 1; bits <= kMaxLloydBits; ++bits) {
    const size_t count = size_t{1} << (bits - 1);
    std::vector<double> magnitudes(count);
    for (size_t j = 0; j < count; ++j) {
      magnitudes[j] = (static_cast<double>(j) + 0.5) * 3 / static_cast<double>(count);
    }
    double moved = 1;
    while (moved > 1e-13) {
      moved = 0;
      std::vector<double> next(count);
      for (size_t j = 0; j < count; ++j) {
        const double from = j == 0 ? 0 : (magnitudes[j - 1] + magnitudes[j]) / 2;
        const double to = j + 1 == count ? 40 : (magnitudes[j] + magnitudes[j + 1]) / 2;
        next[j] = (Density(from) - Density(to)) / (Above(from) - Above(to));
        moved = std::max(moved, std::abs(next[j] - magnitudes[j]));
      }
      magnitudes = next;
    }
    for (size_t j = 0; j < 8; ++j) {
      EXPECT_EQ(LloydMagnitudes(bits)[j], j < count ? static_cast<float>(magnitudes[j]) : 0.0f) << bits;
    }
  }
}

TEST(CodebookUnit, LloydByHand) {
  // Two bits, four values 1, -1, 3, -0.25: squares 11.0625, deviation 1.66302, threshold 0.98160 * 1.66302 =
  // 1.63242; magnitudes 0, 0, 1, 0; energy (3 * 840 + 9344) / 4096 = 2.89648; norm sqrt(11.0625 / 2.89648) =
  // 1.95430 = 0x3ffa (1.953125); values +-0.452780 * 1.953125 = 0.884335, 1.510418 * 1.953125 = 2.950035.
  Rows in(1, 4), out(1, 4);
  const double values[] = {1, -1, 3, -0.25};
  for (size_t c = 0; c < 4; ++c) in.rows[0][c] = Bf16(values[c]);
  for (const Isa isa : AvailableIsas()) {
    std::vector<std::byte> norms(2);
    std::vector<uint8_t> symbols(4);
    ASSERT_TRUE(Codebooks(isa).encode_lloyd(in.read(), 1, 4, 2, norms.data(), symbols.data()));
    EXPECT_EQ(symbols, (std::vector<uint8_t>{2, 1, 3, 1})) << Name(isa);
    EXPECT_EQ(Word(norms, 0), 0x3ffa);
    Codebooks(isa).decode_lloyd(norms.data(), symbols.data(), 1, 4, 2, out.rows.data());
    EXPECT_EQ(out.rows[0][0], Bf16(0.884335));
    EXPECT_EQ(out.rows[0][1], Bf16(-0.884335));
    EXPECT_EQ(out.rows[0][2], Bf16(2.950035));
    EXPECT_EQ(out.rows[0][3], Bf16(-0.884335));
  }
}

TEST(CodebookUnit, LloydRefusesWhatItCannotHold) {
  constexpr uint16_t kBad[] = {0x7f80, 0xff80, 0x7fc0, 0xffff, 0x5f00};  // infinities, NaN, 2^63
  for (const Isa isa : AvailableIsas()) {
    for (const uint16_t bad : kBad) {
      for (uint32_t c = 0; c < 70; ++c) {
        Rows in(2, 70);
        for (uint16_t* row : in.rows) std::fill_n(row, 70, Bf16(1));
        in.rows[1][c] = bad;
        std::vector<std::byte> norms(4);
        std::vector<uint8_t> symbols(140);
        EXPECT_FALSE(Codebooks(isa).encode_lloyd(in.read(), 2, 70, 4, norms.data(), symbols.data()));
      }
    }
  }
}

TEST(CodebookUnit, TinyVectorsBecomeZero) {
  for (const Isa isa : AvailableIsas()) {
    Rows in(1, 40), out(1, 40);
    for (uint32_t c = 0; c < 40; ++c) in.rows[0][c] = static_cast<uint16_t>(c % 2 == 0 ? 0x0001 : 0x8001);
    std::vector<std::byte> norms(2, std::byte{9});
    std::vector<uint8_t> symbols(40);
    ASSERT_TRUE(Codebooks(isa).encode_lloyd(in.read(), 1, 40, 3, norms.data(), symbols.data()));
    EXPECT_EQ(Word(norms, 0), 0);
    for (uint32_t c = 0; c < 40; ++c) EXPECT_EQ(symbols[c], c % 2 == 0 ? 4 : 3);
    Codebooks(isa).decode_lloyd(norms.data(), symbols.data(), 1, 40, 3, out.rows.data());
    for (uint32_t c = 0; c < 40; ++c) EXPECT_EQ(out.rows[0][c] & 0x7fff, 0);
  }
}

// Every value takes the magnitude that is nearest after scaling, and a decoded vector is as long as its
// source up to the rounding of the norm (2^-9), of the values and of the energies.
TEST(CodebookProperty, LloydKeepsTheNorm) {
  base::Rng rng(21);
  for (int round = 0; round < 400; ++round) {
    const auto bits = static_cast<uint32_t>(1 + rng.Below(4));
    const auto channels = static_cast<uint32_t>(1 + rng.Below(300));
    Rows in(1, channels), out(1, channels);
    const double scale = std::ldexp(1, static_cast<int>(rng.Below(80)) - 40);
    double squares = 0;
    for (uint32_t c = 0; c < channels; ++c) {
      in.rows[0][c] = Bf16(rng.Normal() * scale);
      squares += Value(in.rows[0][c]) * Value(in.rows[0][c]);
    }
    std::vector<std::byte> norms(2);
    std::vector<uint8_t> symbols(channels);
    ASSERT_TRUE(Codebooks().encode_lloyd(in.read(), 1, channels, bits, norms.data(), symbols.data()));
    ASSERT_LT(Word(norms, 0), kLloydNormLimit);
    Codebooks().decode_lloyd(norms.data(), symbols.data(), 1, channels, bits, out.rows.data());
    double decoded = 0;
    const double deviation = std::sqrt(squares / channels);
    const int half = 1 << (bits - 1);
    for (uint32_t c = 0; c < channels; ++c) {
      decoded += Value(out.rows[0][c]) * Value(out.rows[0][c]);
      const double u = std::abs(Value(in.rows[0][c])) / deviation;
      const int index = symbols[c] >= half ? symbols[c] - half : half - 1 - symbols[c];
      const auto& magnitudes = LloydMagnitudes(bits);
      const double error = std::abs(u - static_cast<double>(magnitudes[static_cast<size_t>(index)]));
      for (size_t j = 0; j < static_cast<size_t>(half); ++j) {
        ASSERT_LE(error, std::abs(u - static_cast<double>(magnitudes[j])) + 1e-5);
      }
    }
    ASSERT_NEAR(std::sqrt(decoded / squares), 1, 0.012) << bits << " bits, " << channels << " channels";
  }
}

TEST(CodebookUnit, Nvfp4ByHand) {
  // Largest 12 in the tile: tensor scale 12 / 2688. Block 0 has it: scale 448 (0x7e), 2 in all; its codes are
  // those of x / 2. Block 1 has 3: scale 112 = 0x6e, 0.5 in all.
  const float tensor_scale = Nvfp4TensorScale(Bf16(12));
  Rows in(1, 20), out(1, 20);
  std::fill_n(in.rows[0], 20, uint16_t{0});
  const double values[] = {12, -12, 8, 6, 4, 3, 2, 1, 0.5, 0.25, -1.5, 10.5};
  for (size_t c = 0; c < std::size(values); ++c) in.rows[0][c] = Bf16(values[c]);
  in.rows[0][16] = Bf16(3);
  in.rows[0][17] = Bf16(-0.75);
  for (const Isa isa : AvailableIsas()) {
    std::vector<std::byte> scales(2);
    std::vector<uint8_t> symbols(20);
    Codebooks(isa).encode_nvfp4(in.read(), 1, 20, tensor_scale, scales.data(), symbols.data());
    EXPECT_EQ(scales[0], std::byte{0x7e});
    EXPECT_EQ(scales[1], std::byte{0x6e});
    EXPECT_EQ(symbols, (std::vector<uint8_t>{7, 15, 6, 5, 4, 3, 2, 1, 0, 0, 10, 7, 0, 0, 0, 0, 7, 11, 0, 0}))
        << Name(isa);
    Codebooks(isa).decode_nvfp4(scales.data(), symbols.data(), 1, 20, tensor_scale, out.rows.data());
    EXPECT_EQ(out.rows[0][1], Bf16(-12));
    EXPECT_EQ(out.rows[0][16], Bf16(3));
    EXPECT_EQ(out.rows[0][17], Bf16(-0.75));
  }
}

TEST(CodebookUnit, Mxfp4ByHand) {
  // Largest 5: 2^2, so the scale is 2^0 = 127. Ties go to even codes; 5 is one, between 4 and 6.
  Rows in(1, 12), out(1, 12);
  const double values[] = {5, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, -5, -0.26, 0.74, 1.76, -0.0};
  for (size_t c = 0; c < 12; ++c) in.rows[0][c] = Bf16(values[c]);
  for (const Isa isa : AvailableIsas()) {
    std::vector<std::byte> scales(1);
    std::vector<uint8_t> symbols(12);
    ASSERT_TRUE(Codebooks(isa).encode_mxfp4(in.read(), 1, 12, scales.data(), symbols.data()));
    EXPECT_EQ(scales[0], std::byte{127});
    EXPECT_EQ(symbols, (std::vector<uint8_t>{6, 0, 2, 2, 4, 4, 6, 14, 9, 1, 4, 8})) << Name(isa);
    Codebooks(isa).decode_mxfp4(scales.data(), symbols.data(), 1, 12, out.rows.data());
    const double decoded[] = {4, 0, 1, 1, 2, 2, 4, -4, -0.5, 0.5, 2, -0.0};
    for (size_t c = 0; c < 12; ++c) EXPECT_EQ(out.rows[0][c], Bf16(decoded[c])) << c;
  }
}

TEST(CodebookUnit, Mxfp4RefusesWhatItCannotHold) {
  constexpr uint16_t kBad[] = {0x7e80, 0xfe80, 0x7f80, 0x7fc0, 0xffff};
  for (const Isa isa : AvailableIsas()) {
    for (const uint16_t bad : kBad) {
      for (uint32_t c = 0; c < 50; ++c) {
        Rows in(2, 50);
        for (uint16_t* row : in.rows) std::fill_n(row, 50, uint16_t{0});
        std::vector<std::byte> scales(4);
        std::vector<uint8_t> symbols(100);
        EXPECT_TRUE(Codebooks(isa).encode_mxfp4(in.read(), 2, 50, scales.data(), symbols.data()));
        in.rows[1][c] = bad;
        EXPECT_FALSE(Codebooks(isa).encode_mxfp4(in.read(), 2, 50, scales.data(), symbols.data()));
      }
    }
  }
}

TEST(CodebookDiff, LloydOnEveryIsa) {
  base::Rng rng(22);
  for (int round = 0; round < 1500; ++round) {
    const auto bits = static_cast<uint32_t>(1 + rng.Below(4));
    Rows in(static_cast<uint32_t>(1 + rng.Below(5)), static_cast<uint32_t>(1 + rng.Below(300)));
    FillRows(rng, in);
    const size_t values = size_t{in.tokens} * in.channels;
    std::vector<std::byte> norms(2 * in.tokens), norms2(norms.size());
    std::vector<uint8_t> symbols(values), symbols2(values);
    const bool ok = Codebooks(Isa::kScalar)
                        .encode_lloyd(in.read(), in.tokens, in.channels, bits, norms.data(), symbols.data());
    Rows out(in.tokens, in.channels);
    if (ok) {
      Codebooks(Isa::kScalar)
          .decode_lloyd(norms.data(), symbols.data(), in.tokens, in.channels, bits, out.rows.data());
    }
    for (const Isa isa : AvailableIsas()) {
      ASSERT_EQ(Codebooks(isa).encode_lloyd(in.read(), in.tokens, in.channels, bits, norms2.data(),
                                            symbols2.data()),
                ok);
      if (!ok) continue;
      ASSERT_EQ(norms2, norms) << Name(isa) << " round " << round;
      ASSERT_EQ(symbols2, symbols) << Name(isa) << " round " << round;
      for (uint32_t t = 0; t < in.tokens; ++t) ASSERT_LT(Word(norms, t), kLloydNormLimit);
      Rows out2(in.tokens, in.channels);
      Codebooks(isa).decode_lloyd(norms.data(), symbols.data(), in.tokens, in.channels, bits,
                                  out2.rows.data());
      ASSERT_EQ(out2.memory, out.memory) << Name(isa) << " round " << round;
    }
  }
}

TEST(CodebookDiff, Fp4OnEveryIsa) {
  base::Rng rng(23);
  const CodebookKernels& scalar = Codebooks(Isa::kScalar);
  for (int round = 0; round < 1500; ++round) {
    Rows in(static_cast<uint32_t>(1 + rng.Below(5)), static_cast<uint32_t>(1 + rng.Below(300)));
    FillRows(rng, in);
    uint16_t largest = 0;
    for (const uint16_t* row : in.rows) {
      for (uint32_t c = 0; c < in.channels; ++c) {
        largest = std::max(largest, static_cast<uint16_t>(row[c] & 0x7fff));
      }
    }
    const float tensor_scale = Nvfp4TensorScale(largest);
    ASSERT_LE(tensor_scale, kNvfp4TensorScaleLimit);
    const bool nv = rng.Below(2) == 0;
    const uint32_t block = nv ? kNvfp4Block : kMxfp4Block;
    const size_t values = size_t{in.tokens} * in.channels;
    std::vector<std::byte> scales(in.tokens * ((in.channels + block - 1) / block)), scales2(scales.size());
    std::vector<uint8_t> symbols(values), symbols2(values);
    const auto encode = [&](const CodebookKernels& kernels, std::byte* to, uint8_t* codes) {
      if (!nv) return kernels.encode_mxfp4(in.read(), in.tokens, in.channels, to, codes);
      kernels.encode_nvfp4(in.read(), in.tokens, in.channels, tensor_scale, to, codes);
      return true;
    };
    const auto decode = [&](const CodebookKernels& kernels, Rows& out) {
      if (nv) {
        kernels.decode_nvfp4(scales.data(), symbols.data(), in.tokens, in.channels, tensor_scale,
                             out.rows.data());
      } else {
        kernels.decode_mxfp4(scales.data(), symbols.data(), in.tokens, in.channels, out.rows.data());
      }
    };
    ASSERT_TRUE(encode(scalar, scales.data(), symbols.data()));
    for (const std::byte s : scales)
      ASSERT_LE(static_cast<uint8_t>(s), nv ? kNvfp4ScaleLimit : kMxfp4ScaleLimit);
    Rows out(in.tokens, in.channels);
    decode(scalar, out);
    for (const uint16_t* row : out.rows) {
      for (uint32_t c = 0; c < in.channels; ++c) ASSERT_LT(row[c] & 0x7fff, 0x7f80);
    }
    for (const Isa isa : AvailableIsas()) {
      ASSERT_TRUE(encode(Codebooks(isa), scales2.data(), symbols2.data()));
      ASSERT_EQ(scales2, scales) << Name(isa) << " round " << round;
      ASSERT_EQ(symbols2, symbols) << Name(isa) << (nv ? " nvfp4" : " mxfp4") << " round " << round;
      Rows out2(in.tokens, in.channels);
      decode(Codebooks(isa), out2);
      ASSERT_EQ(out2.memory, out.memory) << Name(isa) << " round " << round;
    }
  }
}

// Any symbols under any scales that decoders let through decode to finite values.
TEST(CodebookSafety, LegalScalesDecodeFinite) {
  base::Rng rng(24);
  for (int round = 0; round < 300; ++round) {
    Rows out(1, 64);
    std::vector<uint8_t> symbols(64);
    for (uint8_t& s : symbols) s = static_cast<uint8_t>(rng.Below(16));
    std::vector<std::byte> scales(4);
    for (std::byte& s : scales) s = static_cast<std::byte>(rng.Below(kNvfp4ScaleLimit + 1));
    for (const Isa isa : AvailableIsas()) {
      const std::vector<std::byte> norm = {std::byte{0x7f}, std::byte{0x5f}};
      Codebooks(isa).decode_lloyd(norm.data(), symbols.data(), 1, 64, 4, out.rows.data());
      for (uint32_t c = 0; c < 64; ++c) ASSERT_LT(out.rows[0][c] & 0x7fff, 0x7f80);
      Codebooks(isa).decode_nvfp4(scales.data(), symbols.data(), 1, 64, kNvfp4TensorScaleLimit,
                                  out.rows.data());
      for (uint32_t c = 0; c < 64; ++c) ASSERT_LT(out.rows[0][c] & 0x7fff, 0x7f80);
      const std::vector<std::byte> powers = {std::byte{kMxfp4ScaleLimit}, std::byte{0}};
      Codebooks(isa).decode_mxfp4(powers.data(), symbols.data(), 1, 64, out.rows.data());
      for (uint32_t c = 0; c < 64; ++c) ASSERT_LT(out.rows[0][c] & 0x7fff, 0x7f80);
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
