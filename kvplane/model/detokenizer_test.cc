#include "kvplane/model/detokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "kvplane/base/rng.h"
#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

class DetokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto loaded = Tokenizer::Load(std::filesystem::path(KVPLANE_SOURCE_DIR) / "models" / "demo");
    ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
    tokenizer_ = *std::move(loaded);
  }
  int32_t Byte(uint8_t byte) const { return 3 + byte; }  // "<0x00>" has id 3

  std::unique_ptr<Tokenizer> tokenizer_;
};
using DetokenizerUnit = DetokenizerTest;
using DetokenizerProperty = DetokenizerTest;

TEST_F(DetokenizerUnit, HoldsHalfACharacterBack) {
  Detokenizer detokenizer(*tokenizer_);
  EXPECT_EQ(detokenizer.Push(Byte(0xF0)), "");
  EXPECT_EQ(detokenizer.Push(Byte(0x9F)), "");
  EXPECT_EQ(detokenizer.Push(Byte(0x98)), "");
  EXPECT_EQ(detokenizer.Push(Byte(0x80)), "\xF0\x9F\x98\x80");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST_F(DetokenizerUnit, ReplacesWhatNeverBecomesACharacter) {
  Detokenizer detokenizer(*tokenizer_);
  EXPECT_EQ(detokenizer.Push(Byte(0xE2)), "");
  EXPECT_EQ(detokenizer.Push(Byte('a')),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(detokenizer.Push(Byte(0xFF)), "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.Push(Byte(0xE2)), "");
  EXPECT_EQ(detokenizer.Push(Byte(0x82)), "");
  EXPECT_EQ(detokenizer.Flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST_F(DetokenizerUnit, LeadingSpaceAndSpecialTokens) {
  const int32_t the = *tokenizer_->TokenToId("\xE2\x96\x81the");
  Detokenizer start(*tokenizer_);
  EXPECT_EQ(start.Push(1), "");  // BOS
  EXPECT_EQ(start.Push(the), "the");
  EXPECT_EQ(start.Push(the), " the");
  Detokenizer going_on(*tokenizer_, {.skip_special = false, .at_text_start = false});
  EXPECT_EQ(going_on.Push(the), " the");
  EXPECT_EQ(going_on.Push(2), "</s>");
  EXPECT_EQ(going_on.Push(1'000'000), "");
}

TEST_F(DetokenizerProperty, PiecesMakeTheWhole) {
  base::Rng rng(7);
  for (int i = 0; i < 500; ++i) {
    std::vector<int32_t> ids;
    for (size_t n = rng.Below(60); n > 0; --n) {
      // Half of them byte tokens, so that broken characters are common.
      ids.push_back(static_cast<int32_t>(rng.Below(2) == 0 ? 3 + rng.Below(256) : rng.Below(4100)));
    }
    const bool skip_special = rng.Below(2) == 0;
    Detokenizer detokenizer(*tokenizer_, {.skip_special = skip_special});
    std::string whole;
    for (const int32_t id : ids) {
      const std::string text = detokenizer.Push(id);
      EXPECT_EQ(FindInvalidUtf8(text), std::nullopt);
      whole += text;
    }
    whole += detokenizer.Flush();
    EXPECT_EQ(whole, tokenizer_->Decode(ids, skip_special));
    // Independently: all bytes at once, repaired.
    std::string bytes;
    for (const int32_t id : ids) {
      if (!skip_special || !tokenizer_->IsSpecial(id)) bytes += tokenizer_->IdToPiece(id);
    }
    std::string repaired;
    AppendRepairedUtf8(std::string_view(bytes).substr(bytes.starts_with(' ') ? 1 : 0), &repaired);
    EXPECT_EQ(whole, repaired);
  }
}

TEST(Utf8Unit, MaximalSubparts) {  // The Unicode Standard, table 3-8 and its neighbours
  const auto repair = [](std::string_view text) {
    std::string out;
    AppendRepairedUtf8(text, &out);
    return out;
  };
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(repair("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(repair("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(repair("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(repair("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(IncompleteUtf8Suffix("a\xF0\x9F\x98"), 3U);
  EXPECT_EQ(IncompleteUtf8Suffix("a\xE2\x82"), 2U);
  EXPECT_EQ(IncompleteUtf8Suffix("a\xC3"), 1U);
  EXPECT_EQ(IncompleteUtf8Suffix("\xC3\xA9"), 0U);
  EXPECT_EQ(IncompleteUtf8Suffix("\xED\xA0"), 0U);  // can never become a character
  EXPECT_EQ(IncompleteUtf8Suffix(""), 0U);
}

StopMatcher Matcher(const std::vector<std::string>& stops) {
  auto matcher = StopMatcher::Create(stops);
  EXPECT_TRUE(matcher.ok()) << matcher.status().ToString();
  return *std::move(matcher);
}

TEST(StopMatcherUnit, HoldsBackWhatMayBecomeAStopString) {
  StopMatcher matcher = Matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.Push("one E").text, "one ");
  EXPECT_EQ(matcher.Push("N").text, "");
  EXPECT_EQ(matcher.Push("Q\n").text, "ENQ");
  const StopMatcher::Output output = matcher.Push("x EN");
  EXPECT_EQ(output.text, "\nx ");
  EXPECT_FALSE(output.stopped);
  const StopMatcher::Output hit = matcher.Push("D and more");
  EXPECT_EQ(hit.text, "");
  EXPECT_TRUE(hit.stopped);
  EXPECT_TRUE(matcher.Push("more").stopped);
  EXPECT_EQ(matcher.Push("more").text, "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherUnit, FlushReleasesAndOverlapsCount) {
  StopMatcher matcher = Matcher({"aab"});
  EXPECT_EQ(matcher.Push("aa").text, "");
  EXPECT_EQ(matcher.Push("a").text, "a");
  EXPECT_EQ(matcher.Flush(), "aa");
  StopMatcher overlap = Matcher({"aab"});
  EXPECT_EQ(overlap.Push("caaab").text, "ca");
  EXPECT_TRUE(overlap.stopped());
  StopMatcher both = Matcher({"b", "aab"});  // end at the same byte: the longer one counts
  EXPECT_EQ(both.Push("xaab").text, "x");
  StopMatcher none = Matcher({});
  EXPECT_EQ(none.Push("anything").text, "anything");
}

TEST(StopMatcherSafety, RefusesUselessStops) {
  const auto code = [](std::vector<std::string> stops) { return StopMatcher::Create(stops).status().code(); };
  EXPECT_EQ(code({""}), base::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({"\xFF"}), base::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({std::string(kMaxStopBytes + 1, 'a')}), base::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(std::vector<std::string>(kMaxStopStrings + 1, "a")), base::StatusCode::kInvalidArgument);
}

// However the text is cut: everything before the stop string that ends first, and not a byte more.
TEST(StopMatcherProperty, IndependentOfTheCuts) {
  base::Rng rng(9);
  const auto random_text = [&](size_t most) {
    std::string text;
    for (size_t n = 1 + rng.Below(most); n > 0; --n) text.push_back("ab\n"[rng.Below(3)]);
    return text;
  };
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::string> stops;
    for (size_t n = 1 + rng.Below(3); n > 0; --n) stops.push_back(random_text(5));
    const std::string text = random_text(40);
    size_t first_end = std::string::npos;
    size_t cut = text.size();
    for (const std::string& stop : stops) {
      const size_t at = text.find(stop);
      if (at == std::string::npos) continue;
      const size_t end = at + stop.size();
      if (end < first_end || (end == first_end && at < cut)) {
        first_end = end;
        cut = at;
      }
    }
    StopMatcher matcher = Matcher(stops);
    std::string shown;
    for (size_t begin = 0; begin < text.size();) {
      const size_t length = 1 + rng.Below(6);
      shown += matcher.Push(std::string_view(text).substr(begin, length)).text;
      begin += length;
    }
    shown += matcher.Flush();
    EXPECT_EQ(matcher.stopped(), first_end != std::string::npos);
    EXPECT_EQ(shown, text.substr(0, cut));
  }
}

}  // namespace
}  // namespace kvplane::model
