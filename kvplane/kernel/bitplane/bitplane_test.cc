#include "kvplane/kernel/bitplane/bitplane.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::kernel {
namespace {

using Bytes = std::vector<std::byte>;

TEST(BitplaneUnit, PlanesByHand) {
  // Alphabet 6, middle 3: 3 4 5 fold to 0 2 4, 2 1 0 to 1 3 5.
  const std::vector<uint8_t> symbols = {3, 4, 5, 2, 1, 0, 3, 3, 5};
  const uint8_t folded[] = {0, 2, 4, 1, 3, 5, 0, 0, 4};
  for (const Isa isa : AvailableIsas()) {
    Bytes planes(3 * 2);
    Bitplanes(isa).split(symbols.data(), symbols.size(), 6, 3, planes.data());
    for (size_t j = 0; j < 3; ++j) {
      for (size_t i = 0; i < 9; ++i) {
        EXPECT_EQ(static_cast<uint32_t>(planes[2 * j + i / 8]) >> i % 8 & 1u, folded[i] >> j & 1u);
      }
      EXPECT_EQ(static_cast<uint32_t>(planes[2 * j + 1]) >> 1, 0u);
    }
    std::vector<uint8_t> back(9);
    EXPECT_EQ(Bitplanes(isa).join(planes.data(), 9, 6, 3, back.data()), 5);
    EXPECT_EQ(back, symbols);
  }
}

TEST(BitplaneUnit, GatherByHand) {
  const Bytes in = {std::byte{0}, std::byte{7}, std::byte{0}, std::byte{0}, std::byte{1},
                    std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{255}};
  for (const Isa isa : AvailableIsas()) {
    Bytes marks(2), kept(3), out(10);
    EXPECT_EQ(Bitplanes(isa).count_kept(in.data(), 10, std::byte{0}), 3u);
    EXPECT_EQ(Bitplanes(isa).gather(in.data(), 10, std::byte{0}, marks.data(), kept.data()), 3u);
    EXPECT_EQ(marks, Bytes({std::byte{0x12}, std::byte{0x02}}));
    EXPECT_EQ(kept, Bytes({std::byte{7}, std::byte{1}, std::byte{255}}));
    EXPECT_EQ(Bitplanes(isa).scatter(marks.data(), 10, std::byte{0}, kept.data(), 3, out.data()), 3u);
    EXPECT_EQ(out, in);
    EXPECT_EQ(Bitplanes(isa).scatter(marks.data(), 10, std::byte{0}, kept.data(), 2, out.data()),
              kNoBytesLeft);
  }
}

TEST(BitplaneDiff, PlanesOfEveryIsaAreTheScalarsAndComeBack) {
  base::Rng rng(40);
  for (uint32_t alphabet = 2; alphabet <= 256; ++alphabet) {
    uint32_t bits = 1;
    while (1u << bits < alphabet) ++bits;
    for (const size_t count :
         {size_t{1} + rng.Below(70), size_t{64} * (1 + rng.Below(4)), rng.Below(700) + 1}) {
      std::vector<uint8_t> symbols(count);
      for (uint8_t& s : symbols) s = static_cast<uint8_t>(rng.Below(alphabet));
      Bytes expected(bits * PlaneBytes(count));
      Bitplanes(Isa::kScalar).split(symbols.data(), count, alphabet, bits, expected.data());
      for (const Isa isa : AvailableIsas()) {
        Bytes planes(expected.size());
        Bitplanes(isa).split(symbols.data(), count, alphabet, bits, planes.data());
        ASSERT_EQ(planes, expected) << Name(isa);
        std::vector<uint8_t> back(count);
        ASSERT_LT(Bitplanes(isa).join(planes.data(), count, alphabet, bits, back.data()), alphabet);
        ASSERT_EQ(back, symbols) << Name(isa);
      }
      // Any planes: the same symbols and the same verdict.
      for (std::byte& b : expected) b = static_cast<std::byte>(rng.Next());
      std::vector<uint8_t> scalar(count), other(count);
      const uint8_t most =
          Bitplanes(Isa::kScalar).join(expected.data(), count, alphabet, bits, scalar.data());
      for (const Isa isa : AvailableIsas()) {
        ASSERT_EQ(Bitplanes(isa).join(expected.data(), count, alphabet, bits, other.data()), most);
        ASSERT_EQ(other, scalar);
      }
    }
  }
}

TEST(BitplaneDiff, GatheredBytesOfEveryIsaAreTheScalarsAndComeBack) {
  base::Rng rng(41);
  for (int round = 0; round < 1000; ++round) {
    const size_t size = 1 + rng.Below(400);
    const auto filler = static_cast<std::byte>(rng.Below(2) == 0 ? 0 : 255);
    const uint64_t percent = rng.Below(101);
    Bytes in(size);
    for (std::byte& b : in) b = rng.Below(100) < percent ? filler : static_cast<std::byte>(rng.Next());
    const BitplaneKernels& scalar = Bitplanes(Isa::kScalar);
    const size_t count = scalar.count_kept(in.data(), size, filler);
    Bytes marks(PlaneBytes(size)), kept(count);
    ASSERT_EQ(scalar.gather(in.data(), size, filler, marks.data(), kept.data()), count);
    for (const Isa isa : AvailableIsas()) {
      const BitplaneKernels& kernels = Bitplanes(isa);
      Bytes marks2(marks.size()), kept2(count), out(size);
      ASSERT_EQ(kernels.count_kept(in.data(), size, filler), count);
      ASSERT_EQ(kernels.gather(in.data(), size, filler, marks2.data(), kept2.data()), count);
      ASSERT_EQ(marks2, marks);
      ASSERT_EQ(kept2, kept);
      ASSERT_EQ(kernels.scatter(marks.data(), size, filler, kept.data(), count, out.data()), count);
      ASSERT_EQ(out, in);
      if (count == 0) continue;
      ASSERT_EQ(kernels.scatter(marks.data(), size, filler, kept.data(), count - 1, out.data()),
                kNoBytesLeft);
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
