#include "kvplane/model/unicode_nfc.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

std::string Utf8(const std::vector<char32_t>& chars) {
  std::string out;
  for (const char32_t c : chars) AppendUtf8(c, &out);
  return out;
}

std::string Nfc(const std::vector<char32_t>& chars) { return ToNfc(Utf8(chars)); }

// Cases of the Unicode Standard's NormalizationTest.txt and Annex 15.
TEST(UnicodeNfcUnit, ComposesAsTheStandardSays) {
  EXPECT_EQ(ToNfc("plain"), "plain");
  EXPECT_EQ(Nfc({'e', 0x301}), Utf8({0xE9}));
  EXPECT_EQ(Nfc({0xE9}), Utf8({0xE9}));
  EXPECT_EQ(Nfc({0x212B}), Utf8({0xC5}));                  // a singleton: the Angstrom sign
  EXPECT_EQ(Nfc({'s', 0x307, 0x323}), Utf8({0x1E69}));     // marks in the other order
  EXPECT_EQ(Nfc({0x1E9B, 0x323}), Utf8({0x1E9B, 0x323}));  // does not compose further
  EXPECT_EQ(Nfc({0x1E0A, 0x323}), Utf8({0x1E0C, 0x307}));  // D + dot above, dot below
  EXPECT_EQ(Nfc({0x958}), Utf8({0x915, 0x93C}));           // excluded from composition
  EXPECT_EQ(Nfc({0xFB1D}), Utf8({0x5D9, 0x5B4}));
  EXPECT_EQ(Nfc({0x1100, 0x1161, 0x11A8}), Utf8({0xAC01}));  // Hangul
  EXPECT_EQ(Nfc({0xAC00, 0x11A7}), Utf8({0xAC00, 0x11A7}));  // U+11A7 is no trailing consonant
  EXPECT_EQ(Nfc({0xAC01, 0x11A8}), Utf8({0xAC01, 0x11A8}));
  EXPECT_EQ(Nfc({'a', 0x5AE, 0x300, 0x315}), Utf8({0xE0, 0x5AE, 0x315}));
  EXPECT_EQ(Nfc({0x1D15E}), Utf8({0x1D157, 0x1D165}));
  EXPECT_EQ(Nfc({0x301, 'e'}), Utf8({0x301, 'e'}));  // a mark without a starter
  EXPECT_EQ(Nfc({0xF900}), Utf8({0x8C48}));          // a compatibility ideograph
}

TEST(UnicodeNfcProperty, Idempotent) {
  base::Rng rng(1);
  constexpr std::pair<char32_t, char32_t> kRanges[] = {
      {'a', 'z'},       {0xC0, 0x24F},    {0x300, 0x36F},   {0x591, 0x5C7},   {0x900, 0x9FF},
      {0x1100, 0x11FF}, {0x1E00, 0x1FFF}, {0xAC00, 0xD7A3}, {0x3040, 0x30FF}, {0x1D15E, 0x1D1C0}};
  for (int i = 0; i < 3000; ++i) {
    std::vector<char32_t> chars;
    for (size_t n = 1 + rng.Below(20); n > 0; --n) {
      const auto [first, last] = kRanges[rng.Below(std::size(kRanges))];
      chars.push_back(first + static_cast<char32_t>(rng.Below(last - first + 1)));
    }
    const std::string once = Nfc(chars);
    EXPECT_EQ(ToNfc(once), once);
  }
}

// Whatever decomposes and composes again must come back to itself, for every row of the table.
TEST(UnicodeNfcProperty, EveryCompositeReturns) {
  for (size_t i = 0; i < kDecompositionsCount; ++i) {
    const Decomposition& row = kDecompositions[i];
    if (!row.composes) continue;
    EXPECT_EQ(Nfc({row.first, row.second}), Nfc({row.composed}));
    EXPECT_EQ(Nfc({row.composed}), Utf8({row.composed}));
  }
}

}  // namespace
}  // namespace kvplane::model
