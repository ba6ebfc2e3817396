#include "kvplane/model/tokenizer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "kvplane/base/rng.h"
#include "kvplane/base/testing/test_data.h"
#include "kvplane/model/json_file.h"
#include "kvplane/model/sentencepiece_tokenizer.h"
#include "kvplane/model/tokenizer_json.h"
#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

const fs::path kDemo = fs::path(KVPLANE_SOURCE_DIR) / "models" / "demo";
const fs::path kGpt2 = base::testing::TestData("tokenizers/gpt2");

std::string ReadAll(const fs::path& path) {
  auto text = ReadTextFile(path);
  EXPECT_TRUE(text.ok()) << text.status().ToString();
  return text.ok() ? *text : "";
}

std::unique_ptr<Tokenizer> Take(base::Result<std::unique_ptr<Tokenizer>> result) {
  EXPECT_TRUE(result.ok()) << result.status().ToString();
  return result.ok() ? *std::move(result) : nullptr;
}

std::unique_ptr<Tokenizer> DemoJson() { return Take(Tokenizer::Load(kDemo)); }
std::unique_ptr<Tokenizer> DemoSentencePiece() {
  return Take(ParseSentencePieceModel(ReadAll(kDemo / "tokenizer.model"), {}));
}

// A folder of the test's own, removed at the end.
class TempFolder {
 public:
  explicit TempFolder(const std::string& name) : path_(fs::path(testing::TempDir()) / ("kvplane_" + name)) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~TempFolder() { fs::remove_all(path_); }
  void Write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// Every byte as a symbol, then " a" and "ab" and " ab"; ids follow the byte values.
nlohmann::json SmallByteLevel() {
  nlohmann::json vocab = nlohmann::json::object();
  int next = 0;
  int shifted = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    std::string name;
    AppendUtf8(static_cast<char32_t>(printable ? byte : shifted++), &name);
    vocab[name] = next++;
  }
  vocab["Ġa"] = 256;
  vocab["ab"] = 257;
  vocab["Ġab"] = 258;
  return {{"model",
           {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", "Ġ ab", "Ġ a"}}, {"unk_token", nullptr}}},
          {"added_tokens",
           {{{"id", 259}, {"content", "<|end|>"}, {"special", true}},
            {{"id", 260}, {"content", "   "}, {"special", false}},
            {{"id", 261}, {"content", "<mask>"}, {"special", true}, {"lstrip", true}, {"rstrip", true}}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"decoder", {{"type", "ByteLevel"}}}};
}

Ids Encode(const Tokenizer& tokenizer, std::string_view text, bool special = false, bool parse = false) {
  auto ids = tokenizer.Encode(text, special, parse);
  EXPECT_TRUE(ids.ok()) << ids.status().ToString();
  return ids.ok() ? *ids : Ids{-1};
}

base::Status ParseStatus(const nlohmann::json& file) { return ParseTokenizerJson(file.dump()).status(); }

TEST(TokenizerUnit, DemoModelMatchesItsGoldenIds) {
  const auto tokenizer = DemoJson();
  const auto pieces = DemoSentencePiece();
  ASSERT_TRUE(tokenizer && pieces);
  const auto golden = nlohmann::json::parse(ReadAll(kDemo / "golden.json"));
  size_t prompts = 0;
  for (const auto& entry : golden["prompts"]) {
    const auto prompt = entry["prompt"].get<std::string>();
    EXPECT_EQ(Encode(*tokenizer, prompt, true), entry["token_ids"].get<Ids>());
    EXPECT_EQ(Encode(*pieces, prompt, true), entry["token_ids"].get<Ids>());
    EXPECT_EQ(tokenizer->Decode(entry["token_ids"].get<Ids>(), true), prompt);
    EXPECT_EQ(tokenizer->Decode(entry["greedy_32"].get<Ids>(), true),
              entry["greedy_text"].get<std::string>());
    ++prompts;
  }
  EXPECT_GT(prompts, 0U);
}

TEST(TokenizerUnit, DemoModelFacts) {
  const auto tokenizer = DemoJson();
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->vocab_size(), 4096);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  ASSERT_EQ(tokenizer->eos_ids().size(), 1U);
  EXPECT_EQ(tokenizer->eos_ids()[0], 2);
  EXPECT_EQ(tokenizer->TokenToId("</s>"), 2);
  EXPECT_EQ(tokenizer->TokenToId("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer->IdToPiece(1), "<s>");
  EXPECT_EQ(tokenizer->IdToPiece(13), "\n");  // "<0x0A>"
  EXPECT_EQ(tokenizer->IdToPiece(-1), "");
  EXPECT_EQ(tokenizer->IdToPiece(4096), "");
  EXPECT_TRUE(tokenizer->IsSpecial(2));
  EXPECT_FALSE(tokenizer->IsSpecial(13));
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
}

TEST(TokenizerUnit, SpecialTokensInTextNeedTheFlag) {
  for (const auto& tokenizer : {DemoJson(), DemoSentencePiece()}) {
    ASSERT_TRUE(tokenizer);
    EXPECT_EQ(Encode(*tokenizer, "<s></s>", false, true), (Ids{1, 2}));
    const Ids plain = Encode(*tokenizer, "<s></s>");
    EXPECT_EQ(std::count(plain.begin(), plain.end(), 1), 0);
    EXPECT_EQ(tokenizer->Decode(plain, true), "<s></s>");
    EXPECT_EQ(tokenizer->Decode(Ids{1, 2}, true), "");
    EXPECT_EQ(tokenizer->Decode(Ids{1, 2}, false), "<s></s>");
  }
}

TEST(TokenizerUnit, Gpt2Vectors) {
  if (!fs::exists(kGpt2 / "vectors.inp")) GTEST_SKIP() << base::testing::NoTestData(kGpt2);
  const auto tokenizer = Take(Tokenizer::Load(kGpt2));
  ASSERT_TRUE(tokenizer);
  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string inputs = ReadAll(kGpt2 / "vectors.inp");
  std::istringstream outputs(ReadAll(kGpt2 / "vectors.out"));
  size_t count = 0;
  std::string line;
  for (size_t begin = 0; begin < inputs.size() && std::getline(outputs, line); ++count) {
    const size_t end = std::min(inputs.find(separator, begin), inputs.size());
    const std::string text = inputs.substr(begin, end - begin);
    Ids expected;
    std::istringstream numbers(line);
    for (int32_t id = 0; numbers >> id;) expected.push_back(id);
    EXPECT_EQ(Encode(*tokenizer, text), expected) << "vector " << count;
    EXPECT_EQ(tokenizer->Decode(expected, false), text) << "vector " << count;
    begin = end + separator.size();
  }
  EXPECT_EQ(count, 46U);
  EXPECT_EQ(Encode(*tokenizer, "<|endoftext|>", false, true), Ids{50256});
}

TEST(TokenizerUnit, ByteLevelMergesAndAddedTokens) {
  const auto tokenizer = Take(ParseTokenizerJson(SmallByteLevel().dump()));
  ASSERT_TRUE(tokenizer);
  const auto byte = [&](std::string_view name) { return *tokenizer->TokenToId(name); };
  EXPECT_EQ(Encode(*tokenizer, "ab ab a"), (Ids{257, 258, 256}));
  EXPECT_EQ(Encode(*tokenizer, "aab"), (Ids{byte("a"), 257}));
  // Not special: recognised without the flag. Special: only with it; lstrip and rstrip swallow spaces.
  EXPECT_EQ(Encode(*tokenizer, "a   b"), (Ids{byte("a"), 260, byte("b")}));
  EXPECT_EQ(Encode(*tokenizer, "a<|end|>", false, true), (Ids{byte("a"), 259}));
  EXPECT_EQ(Encode(*tokenizer, "a<|end|>").size(), 8U);
  EXPECT_EQ(Encode(*tokenizer, "a \xE3\x80\x80<mask>\n b", false, true), (Ids{byte("a"), 261, byte("b")}));
  EXPECT_EQ(tokenizer->IdToPiece(258), " ab");
  EXPECT_EQ(tokenizer->IdToPiece(byte("Ċ")), "\n");
  EXPECT_EQ(tokenizer->vocab_size(), 262);
}

TEST(TokenizerUnit, PreTokenizersSplitAsTheFileSays) {
  // Llama 3's pattern: at most three digits, a leading non-letter joins the word, line breaks stay together.
  nlohmann::json file = SmallByteLevel();
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers",
                            {{{"type", "Split"},
                              {"pattern", {{"Regex", "\\p{N}{1,3}|\\s+(?!\\S)|\\s+|[^\\s\\p{N}]+"}}},
                              {"behavior", "Isolated"}},
                             {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  auto& model = file["model"];
  model["vocab"]["12"] = 300;
  model["vocab"]["34"] = 301;
  model["vocab"]["123"] = 302;
  model["vocab"]["1234"] = 303;
  model["merges"] = {"1 2", "3 4", "12 3", "12 34"};
  const auto tokenizer = Take(ParseTokenizerJson(file.dump()));
  ASSERT_TRUE(tokenizer);
  // In one word "12 34" would win over "12 3"; split after three digits it cannot.
  EXPECT_EQ(Encode(*tokenizer, "1234"), (Ids{302, *tokenizer->TokenToId("4")}));
  // U+180E is no white space for the files' authors, though PCRE2's \s takes it.
  EXPECT_EQ(Encode(*tokenizer, "\xE1\xA0\x8E").size(), 3U);
}

TEST(TokenizerUnit, SplitBehaviorsAndDigits) {
  const auto words = [](const nlohmann::json& pre_tokenizer) {
    // Token "a-" exists in the vocabulary, so whether "a" and "-" meet shows how the text was cut.
    nlohmann::json file = SmallByteLevel();
    file["model"]["vocab"]["a-"] = 300;
    file["model"]["vocab"]["-a"] = 301;
    file["model"]["vocab"]["11"] = 302;
    file["model"]["merges"] = {"a -", "- a", "1 1"};
    file["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {pre_tokenizer, {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    const auto tokenizer = Take(ParseTokenizerJson(file.dump()));
    std::string out;
    for (const int32_t id : Encode(*tokenizer, "a-a11")) out += fmt::format("[{}]", tokenizer->IdToPiece(id));
    return out;
  };
  const auto split = [](const char* behavior) {
    return nlohmann::json{{"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", behavior}};
  };
  EXPECT_EQ(words(split("Isolated")), "[a][-][a][11]");
  EXPECT_EQ(words(split("Removed")), "[a][a][11]");
  EXPECT_EQ(words(split("MergedWithPrevious")), "[a-][a][11]");
  EXPECT_EQ(words(split("MergedWithNext")), "[a][-a][11]");
  EXPECT_EQ(words({{"type", "Digits"}, {"individual_digits", true}}), "[a-][a][1][1]");
  EXPECT_EQ(words({{"type", "Digits"}, {"individual_digits", false}}), "[a-][a][11]");
}

TEST(TokenizerUnit, ByteFallbackAndUnknown) {
  nlohmann::json file = {
      {"model",
       {{"type", "BPE"},
        {"unk_token", "<unk>"},
        {"fuse_unk", true},
        {"byte_fallback", true},
        {"vocab", {{"<unk>", 0}, {"<0xC3>", 1}, {"<0xA9>", 2}, {"a", 3}, {"▁", 4}, {"▁a", 5}}},
        {"merges", nlohmann::json::array({nlohmann::json::array({"▁", "a"})})}}},
      {"normalizer", {{"type", "Prepend"}, {"prepend", "▁"}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
          {{"type", "ByteFallback"}},
          {{"type", "Fuse"}},
          {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}}};
  const auto tokenizer = Take(ParseTokenizerJson(file.dump()));
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(Encode(*tokenizer, "a\xC3\xA9"), (Ids{5, 1, 2}));
  EXPECT_EQ(tokenizer->Decode(Ids{5, 1, 2}, true), "a\xC3\xA9");
  EXPECT_EQ(Encode(*tokenizer, "azyx"), (Ids{5, 0}));  // a run of unknowns is one
  EXPECT_EQ(Encode(*tokenizer, ""), Ids{});
}

TEST(TokenizerSafety, DecodersThatMultiplyAreRefused) {
  nlohmann::json file = {
      {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", nlohmann::json::array()}}}};
  const auto load = [&](size_t doublings) {
    auto steps = nlohmann::json::array();
    for (size_t i = 0; i < doublings; ++i) {
      steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
    }
    file["decoder"] = {{"type", "Sequence"}, {"decoders", steps}};
    return ParseTokenizerJson(file.dump());
  };
  const auto small = Take(load(2));
  ASSERT_TRUE(small);
  EXPECT_EQ(small->Decode(Ids{0}, true), "aaaa");
  EXPECT_EQ(load(30).status().code(), base::StatusCode::kCorrupt);  // would be a gigabyte
}

TEST(TokenizerUnit, MetaspacePrependsOnlyToTheFirstSegment) {
  nlohmann::json file = {
      {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"▁", 1}, {"▁a", 2}}}, {"merges", {"▁ a"}}}},
      {"added_tokens", {{{"id", 3}, {"content", "[X]"}, {"special", true}}}},
      {"pre_tokenizer",
       {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"split", true}}},
      {"decoder", {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}}}};
  const auto tokenizer = Take(ParseTokenizerJson(file.dump()));
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(Encode(*tokenizer, "a a[X]a", false, true), (Ids{2, 2, 3, 0}));
  EXPECT_EQ(Encode(*tokenizer, " a"), Ids{2});
  EXPECT_EQ(tokenizer->Decode(Ids{2, 2}, true), "a a");
}

TEST(TokenizerUnit, TemplatePostProcessorAddsBothEnds) {
  nlohmann::json file = SmallByteLevel();
  file["post_processor"] = {
      {"type", "Sequence"},
      {"processors",
       {{{"type", "ByteLevel"}},
        {{"type", "TemplateProcessing"},
         {"single",
          {{{"SpecialToken", {{"id", "[B]"}}}},
           {{"Sequence", {{"id", "A"}}}},
           {{"SpecialToken", {{"id", "[E]"}}}}}},
         {"special_tokens", {{"[B]", {{"ids", {259}}}}, {"[E]", {{"ids", {259, 258}}}}}}}}}};
  const auto tokenizer = Take(ParseTokenizerJson(file.dump()));
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(Encode(*tokenizer, "ab", true), (Ids{259, 257, 259, 258}));
  EXPECT_EQ(Encode(*tokenizer, "ab", false), (Ids{257}));
}

TEST(TokenizerUnit, SpecialIdsComeFromTheConfigFiles) {
  const TempFolder folder("special_ids");
  folder.Write("tokenizer.json", SmallByteLevel().dump());
  auto tokenizer = Take(Tokenizer::Load(folder.path()));
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
  EXPECT_TRUE(tokenizer->eos_ids().empty());

  folder.Write("config.json", R"({"bos_token_id": 7, "eos_token_id": 8})");
  tokenizer = Take(Tokenizer::Load(folder.path()));
  EXPECT_EQ(tokenizer->bos_id(), 7);
  EXPECT_EQ(Ids(tokenizer->eos_ids().begin(), tokenizer->eos_ids().end()), Ids{8});

  folder.Write("generation_config.json", R"({"eos_token_id": [10, 9, 10]})");
  folder.Write("tokenizer_config.json", R"({"bos_token": null, "eos_token": {"content": "<|end|>"}})");
  tokenizer = Take(Tokenizer::Load(folder.path()));
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
  EXPECT_EQ(Ids(tokenizer->eos_ids().begin(), tokenizer->eos_ids().end()), (Ids{9, 10, 259}));

  folder.Write("tokenizer_config.json", R"({"eos_token": "<|nowhere|>"})");
  EXPECT_EQ(Tokenizer::Load(folder.path()).status().code(), base::StatusCode::kCorrupt);
  folder.Write("tokenizer_config.json", "{}");
  folder.Write("generation_config.json", R"({"eos_token_id": "two"})");
  EXPECT_EQ(Tokenizer::Load(folder.path()).status().code(), base::StatusCode::kCorrupt);
}

// Text of every kind: words, digits, CJK, emoji with joiners, combining marks, control bytes, runs of spaces.
std::string RandomText(base::Rng* rng, size_t pieces) {
  constexpr std::string_view kPieces[] = {
      "the ",
      "old man",
      " and",
      "The code for amber is ",
      "4",
      "813",
      "\n",
      "\n\n",
      " ",
      "     ",
      "\t",
      "\r\n",
      "\xE6\xBC\xA2\xE5\xAD\x97",
      "\xE3\x81\x8B\xE3\x81\xAA",
      "\xF0\x9F\x98\x80",
      "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB",
      "e\xCC\x81",
      "\xC3\xA9",
      "\xE2\x96\x81",
      "\xE2\x80\x94",
      "\x01",
      "\x7F",
      "\xC2\xA0",
      "\xE1\xA0\x8E",
      "\xE3\x80\x80",
      "<s>",
      "<0x41>",
      "aaaaaaaaaaaaa",
      "'ll",
      "?!...",
      "Stra\xC3\x9F"
      "e",
      "\xD0\xBC\xD0\xB8\xD1\x80",
      "\xEF\xBF\xBD",
      "\xF4\x8F\xBF\xBF",
      "x",
      "Q",
      "_",
      "--",
  };
  std::string text;
  for (size_t i = 0; i < pieces; ++i) text += kPieces[rng->Below(std::size(kPieces))];
  return text;
}

TEST(TokenizerProperty, BothDemoTokenizersAgreeAndRoundTrip) {
  const auto json = DemoJson();
  const auto pieces = DemoSentencePiece();
  ASSERT_TRUE(json && pieces);
  base::Rng rng(1);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = RandomText(&rng, 1 + rng.Below(40));
    const Ids ids = Encode(*json, text);
    EXPECT_EQ(ids, Encode(*pieces, text)) << text;
    // "▁" itself decodes to a space: the one character that does not survive.
    std::string expected;
    for (size_t at = 0; at < text.size();) {
      const bool mark = text.compare(at, 3, "\xE2\x96\x81") == 0;
      expected += mark ? " " : text.substr(at, 1);
      at += mark ? 3 : 1;
    }
    EXPECT_EQ(json->Decode(ids, false), expected);
    EXPECT_EQ(pieces->Decode(ids, false), expected);
  }
  for (int32_t id = 0; id < json->vocab_size(); ++id) {
    EXPECT_EQ(json->IdToPiece(id), pieces->IdToPiece(id));
    EXPECT_EQ(json->IsSpecial(id), pieces->IsSpecial(id));
  }
}

TEST(TokenizerProperty, ByteLevelRoundTripsEveryText) {
  if (!fs::exists(kGpt2 / "vocab.json")) GTEST_SKIP() << base::testing::NoTestData(kGpt2);
  const auto tokenizer = Take(Tokenizer::Load(kGpt2));
  ASSERT_TRUE(tokenizer);
  base::Rng rng(2);
  for (int i = 0; i < 1000; ++i) {
    const std::string text = RandomText(&rng, 1 + rng.Below(40));
    EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, text), false), text);
  }
}

// The heap and the array must give the same tokens: a long word equals the definition of BPE by brute force.
TEST(TokenizerProperty, MergesFollowTheDefinition) {
  nlohmann::json file = SmallByteLevel();
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const std::vector<std::pair<std::string, std::string>> merges = {
      {"a", "b"}, {"b", "a"}, {"a", "a"}, {"ab", "a"}, {"ba", "b"}, {"ab", "ab"}, {"aa", "b"}, {"aba", "ba"}};
  auto& model = file["model"];
  model["merges"] = nlohmann::json::array();
  int next = 300;
  for (const auto& [left, right] : merges) {
    if (!model["vocab"].contains(left + right)) model["vocab"][left + right] = next++;
    model["merges"].push_back({left, right});
  }
  const auto tokenizer = Take(ParseTokenizerJson(file.dump()));
  ASSERT_TRUE(tokenizer);
  base::Rng rng(3);
  for (int i = 0; i < 400; ++i) {
    std::vector<std::string> symbols;
    std::string text;
    for (size_t n = 1 + rng.Below(150); n > 0; --n) {
      symbols.emplace_back(1, static_cast<char>('a' + static_cast<char>(rng.Below(2))));
      text += symbols.back();
    }
    for (bool merged = true; merged;) {
      merged = false;
      for (const auto& [left, right] : merges) {
        for (size_t at = 0; at + 1 < symbols.size() && !merged; ++at) {
          if (symbols[at] != left || symbols[at + 1] != right) continue;
          symbols[at] += symbols[at + 1];
          symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(at) + 1);
          merged = true;
        }
        if (merged) break;
      }
    }
    Ids expected;
    for (const std::string& symbol : symbols) expected.push_back(*tokenizer->TokenToId(symbol));
    EXPECT_EQ(Encode(*tokenizer, text), expected) << text;
  }
}

TEST(TokenizerProperty, ManyThreadsGetTheSameIds) {
  const auto json = DemoJson();
  const auto pieces = DemoSentencePiece();
  ASSERT_TRUE(json && pieces);
  base::Rng rng(4);
  const std::string text = RandomText(&rng, 500);
  const Ids expected = Encode(*json, text);
  std::atomic<int> differences = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int k = 0; k < 20; ++k) {
          differences += *json->Encode(text, false) == expected ? 0 : 1;
          differences += *pieces->Encode(text, false) == expected ? 0 : 1;
        }
      });
    }
  }
  EXPECT_EQ(differences, 0);
}

TEST(TokenizerSafety, TextThatIsNotUtf8OrTooLong) {
  const auto tokenizer = DemoJson();
  ASSERT_TRUE(tokenizer);
  const base::Status status = tokenizer->Encode("abc\xC3", true).status();
  EXPECT_EQ(status.ToString(), "invalid argument: the text is not UTF-8 at byte 3");
  for (const std::string_view bad :
       {"\xFF", "\xED\xA0\x80", "\xC0\x80", "\xF4\x90\x80\x80", "\xE2\x28\xA1"}) {
    EXPECT_EQ(tokenizer->Encode(bad, true).status().code(), base::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(tokenizer->Encode(std::string(kMaxTextBytes + 1, 'a'), true).status().code(),
            base::StatusCode::kResourceExhausted);
}

// A million bytes without a space: quadratic merging would take hours here.
TEST(TokenizerSafety, LongWordsAreNotQuadratic) {
  constexpr size_t kBytes = 1'000'000;
  std::vector<std::unique_ptr<Tokenizer>> tokenizers;
  tokenizers.push_back(DemoJson());
  if (fs::exists(kGpt2 / "vocab.json")) tokenizers.push_back(Take(Tokenizer::Load(kGpt2)));
  base::Rng rng(5);
  std::string letters;
  for (size_t i = 0; i < kBytes; ++i)
    letters.push_back(static_cast<char>('a' + static_cast<char>(rng.Below(26))));
  for (const auto& tokenizer : tokenizers) {
    ASSERT_TRUE(tokenizer);
    for (const std::string& text : {letters, std::string(kBytes, 'a'), std::string(kBytes, ' ')}) {
      EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, text), false), text);
    }
  }
}

TEST(TokenizerSafety, TruncatedFiles) {
  const std::string json = ReadAll(kDemo / "tokenizer.json");
  const std::string pieces = ReadAll(kDemo / "tokenizer.model");
  for (size_t i = 0; i < 40; ++i) {
    EXPECT_EQ(ParseTokenizerJson(std::string_view(json).substr(0, json.size() * i / 40)).status().code(),
              base::StatusCode::kCorrupt);
    // A prefix of a protobuf may be a shorter model; it must load or be refused, and never crash.
    const auto cut = ParseSentencePieceModel(std::string_view(pieces).substr(0, pieces.size() * i / 40), {});
    if (!cut.ok()) {
      EXPECT_EQ(cut.status().code(), base::StatusCode::kCorrupt);
    } else {
      EXPECT_LT((*cut)->vocab_size(), 4096);
    }
  }
  EXPECT_EQ(ParseSentencePieceModel("not a protobuf", {}).status().code(), base::StatusCode::kCorrupt);
  EXPECT_EQ(ParseSentencePieceModel("", {}).status().code(), base::StatusCode::kCorrupt);
}

TEST(TokenizerSafety, WrongTypesAreNamed) {
  struct Case {
    const char* pointer;
    nlohmann::json value;
    const char* expected;
  };
  const Case cases[] = {
      {"/model", 3, "model is not an object"},
      {"/model/vocab", "x", "model.vocab is not an object"},
      {"/model/vocab", nlohmann::json::object(), "model.vocab is empty"},
      {"/model/vocab/a", "one", "model.vocab is not an integer"},
      {"/model/vocab/a", -1, "outside"},
      {"/model/vocab/a", 1LL << 40, "outside"},
      {"/model/vocab/a", 1.5, "not an integer"},
      {"/model/vocab/a", 257, "share id 257"},
      {"/model/merges", {{"x", 1}}, "model.merges is not a list"},
      {"/model/merges/0", "ab", "has no space"},
      {"/model/merges/0", 7, "neither a string nor a pair"},
      {"/model/merges/0", {"a", "b", "c"}, "neither a string nor a pair"},
      {"/model/merges/0", "a zzz", "not in the vocabulary"},
      {"/model/merges/0", "b a", "no token"},
      {"/model/unk_token", "zzz", "not in the vocabulary"},
      {"/model/byte_fallback", "yes", "not true or false"},
      {"/model/type", "Unigram", "only BPE"},
      {"/model/dropout", 0.1, "dropout"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"/added_tokens", 1, "added_tokens is not a list"},
      {"/added_tokens/0", 1, "content is not a string"},
      {"/added_tokens/0/id", 3, "share id 3"},
      {"/added_tokens/0/content", "", "is empty"},
      {"/added_tokens/0/content", std::string(5000, 'x'), "the limit is"},
      {"/added_tokens/0/content", "ab", "has ids"},
      {"/added_tokens/0/single_word", true, "single_word"},
      {"/normalizer", {{"type", "Lowercase"}}, "normalizer 'Lowercase'"},
      {"/normalizer", 3, "normalizer has no type"},
      {"/normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "("}}}, {"content", ""}}, "pattern '('"},
      {"/pre_tokenizer", {{"type", "Whitespace"}}, "pre_tokenizer 'Whitespace'"},
      {"/pre_tokenizer", {{"type", "Split"}, {"behavior", "Contiguous"}}, "Contiguous"},
      {"/pre_tokenizer", nullptr, "only one of pre_tokenizer and decoder"},
      {"/decoder", nullptr, "without a decoder"},
      {"/decoder", {{"type", "WordPiece"}}, "decoder 'WordPiece'"},
      {"/post_processor", {{"type", "RobertaProcessing"}}, "post_processor 'RobertaProcessing'"},
      {"/post_processor",
       {{"type", "TemplateProcessing"}, {"single", nlohmann::json::array()}},
       "no Sequence A"},
  };
  ASSERT_TRUE(ParseStatus(SmallByteLevel()).ok());
  for (const Case& test : cases) {
    nlohmann::json file = SmallByteLevel();
    file[nlohmann::json::json_pointer(test.pointer)] = test.value;
    const base::Status status = ParseStatus(file);
    EXPECT_FALSE(status.ok()) << test.pointer << " " << test.value;
    EXPECT_NE(status.message().find(test.expected), std::string::npos)
        << test.pointer << ": " << status.message();
  }
}

TEST(TokenizerSafety, DeepNestingIsRefused) {
  nlohmann::json sequence = {{"type", "NFC"}};
  for (int i = 0; i < 40; ++i) sequence = {{"type", "Sequence"}, {"normalizers", {sequence}}};
  nlohmann::json file = SmallByteLevel();
  file["normalizer"] = sequence;
  EXPECT_NE(ParseStatus(file).message().find("nested deeper"), std::string::npos);
  EXPECT_FALSE(ParseTokenizerJson(std::string(200'000, '[')).ok());
  const std::string deep = R"({"normalizer":)" + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  EXPECT_FALSE(ParseTokenizerJson(deep).ok());
}

TEST(TokenizerSafety, FoldersWithoutAUsableTokenizer) {
  const TempFolder folder("no_tokenizer");
  EXPECT_EQ(Tokenizer::Load(folder.path()).status().code(), base::StatusCode::kNotFound);
  EXPECT_EQ(Tokenizer::Load(folder.path() / "nowhere").status().code(), base::StatusCode::kNotFound);
  folder.Write("vocab.json", R"({"a": 0})");
  folder.Write("merges.txt", "#version: 0.2\n");
  EXPECT_TRUE(Tokenizer::Load(folder.path()).ok());
  folder.Write("merges.txt", "#version: 0.2\na b\n");
  EXPECT_EQ(Tokenizer::Load(folder.path()).status().code(), base::StatusCode::kCorrupt);
  folder.Write("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  EXPECT_EQ(Tokenizer::Load(folder.path()).status().code(), base::StatusCode::kUnimplemented);
  folder.Write("tokenizer.json", "{");  // present but broken: no silent fallback
  EXPECT_EQ(Tokenizer::Load(folder.path()).status().code(), base::StatusCode::kCorrupt);
}

}  // namespace
}  // namespace kvplane::model
