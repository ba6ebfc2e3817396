#include "kvplane/kernel/exponent/exponent.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::kernel {
namespace {

std::vector<std::byte> Bytes(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int v : values) bytes.push_back(static_cast<std::byte>(v));
  return bytes;
}

TEST(ExponentUnit, WindowByHand) {
  // 1.0, -2.0, 2^-13 (base), 2^-14 (below the window), NaN; exponents 127, 128, 114, 113, 255.
  const uint16_t values[] = {0x3f80, 0xc000, 0x3900, 0x3880, 0xffc1};
  const uint16_t* rows[] = {values};
  for (const Isa isa : AvailableIsas()) {
    const ExponentKernels& kernels = Exponent(isa);
    EXPECT_EQ(kernels.largest_exponent(rows, 1, 5), 128);
    std::vector<std::byte> rests(5), codes(3), escapes(2);
    EXPECT_EQ(kernels.encode(rows, 1, 5, 114, 0, rests.data(), codes.data(), escapes.data(), 2), 2u);
    EXPECT_EQ(rests, Bytes({0x00, 0x80, 0x00, 0x00, 0xc1}));
    EXPECT_EQ(codes, Bytes({0xed, 0xf0, 0x0f}));
    EXPECT_EQ(escapes, Bytes({113, 255}));
    EXPECT_EQ(kernels.count_escapes(codes.data(), 5), 2u);
    EXPECT_EQ(kernels.encode(rows, 1, 5, 114, 0, rests.data(), codes.data(), escapes.data(), 1),
              kNoEscapeRoom);
  }
}

TEST(ExponentUnit, EveryPatternComesBackAtEveryBase) {
  std::vector<uint16_t> values(65536), back(values.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i);
  const uint16_t* rows[] = {values.data()};
  uint16_t* out[] = {back.data()};
  std::vector<std::byte> rests(65536), codes(32768), escapes(65536);
  for (const Isa isa : AvailableIsas()) {
    const ExponentKernels& kernels = Exponent(isa);
    EXPECT_EQ(kernels.largest_exponent(rows, 1, 65536), 254);
    for (const uint8_t base : {uint8_t{0}, uint8_t{1}, uint8_t{113}, kMaxWindowBase}) {
      const size_t escaped =
          kernels.encode(rows, 1, 65536, base, 0, rests.data(), codes.data(), escapes.data(), escapes.size());
      EXPECT_EQ(escaped, 65536u - 15 * 256);
      EXPECT_EQ(kernels.count_escapes(codes.data(), 65536), escaped);
      std::fill(back.begin(), back.end(), uint16_t{0xbeef});
      EXPECT_EQ(kernels.decode(rests.data(), codes.data(), escapes.data(), base, 1, 65536, false, out),
                escaped);
      EXPECT_EQ(back, values);
    }
    kernels.split(rows, 1, 65536, rests.data(), escapes.data());
    std::fill(back.begin(), back.end(), uint16_t{0xbeef});
    kernels.join(rests.data(), escapes.data(), 1, 65536, out);
    EXPECT_EQ(back, values);
  }
}

struct Rows {
  Rows(uint32_t tokens, uint32_t channels) {
    for (uint32_t t = 0; t < tokens; ++t) memory.emplace_back(channels);
    for (auto& row : memory) {
      in.push_back(row.data());
      out.push_back(row.data());
    }
  }
  std::vector<std::vector<uint16_t>> memory;  // one allocation per row: ASan sees every overrun
  std::vector<const uint16_t*> in;
  std::vector<uint16_t*> out;
};

// Mostly normal values, some of any pattern.
uint16_t RandomValue(base::Rng& rng, uint64_t odd_percent) {
  if (rng.Below(100) < odd_percent) return static_cast<uint16_t>(rng.Next());
  return tensor::FloatToBf16(static_cast<float>(rng.Normal()));
}

TEST(ExponentDiff, EveryIsaGivesTheScalarBytesAndComesBack) {
  base::Rng rng(31);
  for (int round = 0; round < 400; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(5));
    const auto channels = static_cast<uint32_t>(1 + rng.Below(200));
    const uint64_t odd = rng.Below(3) * rng.Below(40);
    Rows rows(tokens, channels);
    for (auto& row : rows.memory) {
      for (uint16_t& v : row) v = RandomValue(rng, odd);
    }
    const size_t n = size_t{tokens} * channels;
    const size_t code_bytes = tokens * WindowRowBytes(channels);
    const ExponentKernels& scalar = Exponent(Isa::kScalar);
    const uint8_t largest = scalar.largest_exponent(rows.in.data(), tokens, channels);
    const auto base = static_cast<uint8_t>(std::max(0, largest - 14));
    std::vector<std::byte> rests(n), codes(code_bytes), escapes(n), exponents(n);
    const size_t escaped = scalar.encode(rows.in.data(), tokens, channels, base, 0, rests.data(),
                                         codes.data(), escapes.data(), n);
    ASSERT_NE(escaped, kNoEscapeRoom);
    escapes.resize(escaped);
    escapes.shrink_to_fit();
    scalar.split(rows.in.data(), tokens, channels, rests.data(), exponents.data());
    for (const Isa isa : AvailableIsas()) {
      const ExponentKernels& kernels = Exponent(isa);
      ASSERT_EQ(kernels.largest_exponent(rows.in.data(), tokens, channels), largest);
      std::vector<std::byte> rests2(n), codes2(code_bytes), escapes2(escaped), exponents2(n);
      ASSERT_EQ(kernels.encode(rows.in.data(), tokens, channels, base, channels, rests2.data(), codes2.data(),
                               escapes2.data(), escaped),
                escaped);
      ASSERT_EQ(rests2, rests);
      ASSERT_EQ(codes2, codes);
      ASSERT_EQ(escapes2, escapes);
      if (escaped > 0) {
        ASSERT_EQ(kernels.encode(rows.in.data(), tokens, channels, base, channels, rests2.data(),
                                 codes2.data(), escapes2.data(), escaped - 1),
                  kNoEscapeRoom);
      }
      size_t counted = 0;
      for (uint32_t t = 0; t < tokens; ++t) {
        counted += kernels.count_escapes(codes.data() + t * WindowRowBytes(channels), channels);
      }
      ASSERT_EQ(counted, escaped);
      Rows back(tokens, channels);
      ASSERT_EQ(kernels.decode(rests.data(), codes.data(), escapes.data(), base, tokens, channels, true,
                               back.out.data()),
                escaped);
      ASSERT_EQ(back.memory, rows.memory);
      kernels.split(rows.in.data(), tokens, channels, rests2.data(), exponents2.data());
      ASSERT_EQ(rests2, rests);
      ASSERT_EQ(exponents2, exponents);
      Rows joined(tokens, channels);
      kernels.join(rests.data(), exponents.data(), tokens, channels, joined.out.data());
      ASSERT_EQ(joined.memory, rows.memory);
    }
  }
}

TEST(ExponentUnit, WideByHand) {
  // The values of WindowByHand; a window of two exponents from 127 on.
  const uint16_t values[] = {0x3f80, 0xc000, 0x3900, 0x3880, 0xffc1};
  const uint16_t* rows[] = {values};
  for (const Isa isa : AvailableIsas()) {
    std::vector<std::byte> rests(5), escapes(3);
    std::vector<uint8_t> codes(5);
    EXPECT_EQ(Exponent(isa).encode_wide(rows, 1, 5, 127, 2, rests.data(), codes.data(), escapes.data(), 3),
              3u);
    EXPECT_EQ(rests, Bytes({0x00, 0x80, 0x00, 0x00, 0xc1}));
    EXPECT_EQ(codes, std::vector<uint8_t>({0, 1, 2, 2, 2}));
    EXPECT_EQ(escapes, Bytes({114, 113, 255}));
  }
}

TEST(ExponentDiff, WideCodesOfEveryIsaAreTheScalarsAndComeBack) {
  base::Rng rng(33);
  for (int round = 0; round < 600; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(5));
    const auto channels = static_cast<uint32_t>(1 + rng.Below(200));
    const auto base = static_cast<uint8_t>(rng.Below(2) == 0 ? 110 + rng.Below(30) : rng.Below(256));
    const auto width = static_cast<uint8_t>(1 + rng.Below(std::min<uint64_t>(kExponents - base, 40)));
    const uint64_t odd = rng.Below(3) * rng.Below(50);
    Rows rows(tokens, channels);
    for (auto& row : rows.memory) {
      for (uint16_t& v : row) v = RandomValue(rng, odd);
    }
    const size_t n = size_t{tokens} * channels;
    std::vector<std::byte> rests(n), escapes(n);
    std::vector<uint8_t> codes(n);
    const size_t escaped = Exponent(Isa::kScalar)
                               .encode_wide(rows.in.data(), tokens, channels, base, width, rests.data(),
                                            codes.data(), escapes.data(), n);
    ASSERT_NE(escaped, kNoEscapeRoom);
    escapes.resize(escaped);
    escapes.shrink_to_fit();
    for (const Isa isa : AvailableIsas()) {
      const ExponentKernels& kernels = Exponent(isa);
      std::vector<std::byte> rests2(n), escapes2(escaped);
      std::vector<uint8_t> codes2(n);
      ASSERT_EQ(kernels.encode_wide(rows.in.data(), tokens, channels, base, width, rests2.data(),
                                    codes2.data(), escapes2.data(), escaped),
                escaped);
      ASSERT_EQ(rests2, rests);
      ASSERT_EQ(codes2, codes);
      ASSERT_EQ(escapes2, escapes);
      Rows back(tokens, channels);
      ASSERT_EQ(kernels.decode_wide(rests.data(), codes.data(), escapes.data(), escaped, base, width, tokens,
                                    channels, true, back.out.data()),
                escaped);
      ASSERT_EQ(back.memory, rows.memory);
      if (escaped == 0) continue;
      ASSERT_EQ(kernels.encode_wide(rows.in.data(), tokens, channels, base, width, rests2.data(),
                                    codes2.data(), escapes2.data(), escaped - 1),
                kNoEscapeRoom);
      escapes2.resize(escaped - 1);
      escapes2.shrink_to_fit();
      ASSERT_EQ(kernels.decode_wide(rests.data(), codes.data(), escapes2.data(), escaped - 1, base, width,
                                    tokens, channels, false, back.out.data()),
                kNoEscapeRoom);
    }
  }
}

// Aligned rows, which streaming stores take, with a gap behind each that stays as it is.
TEST(ExponentDiff, StreamedRowsAreTheSame) {
  struct alignas(64) Line {
    uint16_t values[32] = {};
  };
  base::Rng rng(32);
  for (int round = 0; round < 200; ++round) {
    const auto tokens = static_cast<uint32_t>(1 + rng.Below(9));
    const auto channels =
        static_cast<uint32_t>(rng.Below(3) == 0 ? 1 + rng.Below(300) : 64 * (1 + rng.Below(4)));
    const size_t lines = (channels + 31) / 32 + 1;
    std::vector<Line> in(tokens * lines), whole(in.size()), streamed(in.size());
    std::vector<const uint16_t*> from;
    std::vector<uint16_t*> to, around;
    for (uint32_t t = 0; t < tokens; ++t) {
      uint16_t* const row = in[t * lines].values;
      for (uint32_t c = 0; c < channels; ++c) row[c] = RandomValue(rng, 10);
      from.push_back(row);
      to.push_back(whole[t * lines].values);
      around.push_back(streamed[t * lines].values);
    }
    const auto same = [&](const std::vector<Line>& out) {
      return std::memcmp(out.data(), in.data(), in.size() * sizeof(Line)) == 0;
    };
    const size_t n = size_t{tokens} * channels;
    for (const Isa isa : AvailableIsas()) {
      const ExponentKernels& kernels = Exponent(isa);
      std::vector<std::byte> rests(n), codes(tokens * WindowRowBytes(channels)), escapes(n);
      const size_t escaped = kernels.encode(from.data(), tokens, channels, 114, lines * 32, rests.data(),
                                            codes.data(), escapes.data(), n);
      kernels.decode(rests.data(), codes.data(), escapes.data(), 114, tokens, channels, false, to.data());
      EXPECT_EQ(kernels.decode(rests.data(), codes.data(), escapes.data(), 114, tokens, channels, true,
                               around.data()),
                escaped);
      ASSERT_TRUE(same(whole)) << Name(isa);
      ASSERT_TRUE(same(streamed)) << Name(isa);
      std::vector<uint8_t> wide(n);
      const size_t more = kernels.encode_wide(from.data(), tokens, channels, 120, 9, rests.data(),
                                              wide.data(), escapes.data(), n);
      std::fill(streamed.begin(), streamed.end(), Line{});
      EXPECT_EQ(kernels.decode_wide(rests.data(), wide.data(), escapes.data(), more, 120, 9, tokens, channels,
                                    true, around.data()),
                more);
      ASSERT_TRUE(same(streamed)) << Name(isa);
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
