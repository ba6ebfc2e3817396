#include "kvplane/server/prefix_index.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>
#include <string>

#include "kvplane/base/rng.h"

namespace kvplane::server {
namespace {

using std::chrono::seconds;

constexpr base::TimePoint kStart{};

std::string Text(size_t bytes, uint64_t seed) {
  std::string text(bytes, ' ');
  base::Rng rng(seed);
  for (char& c : text) c = static_cast<char>('a' + rng.Below(26));
  return text;
}

TEST(PromptChunksProperty, HashesNamePrefixes) {
  const std::string text = Text(5 * kPromptChunkBytes + 100, 1);
  const std::vector<uint64_t> hashes = HashPromptChunks(text);
  ASSERT_EQ(hashes.size(), 5u);
  EXPECT_EQ(std::set<uint64_t>(hashes.begin(), hashes.end()).size(), 5u);
  EXPECT_EQ(HashPromptChunks(text.substr(0, 3 * kPromptChunkBytes)),
            std::vector<uint64_t>(hashes.begin(), hashes.begin() + 3));
  EXPECT_TRUE(HashPromptChunks(text.substr(0, kPromptChunkBytes - 1)).empty());
  for (size_t changed = 0; changed < text.size(); changed += 97) {
    std::string other = text;
    other[changed] = '!';
    const std::vector<uint64_t> others = HashPromptChunks(other);
    for (size_t i = 0; i < hashes.size(); ++i) {
      EXPECT_EQ(others[i] == hashes[i], i < changed / kPromptChunkBytes)
          << "byte " << changed << ", chunk " << i;
    }
  }
  EXPECT_EQ(HashPromptChunks(std::string((kMaxPromptChunks + 9) * kPromptChunkBytes, 'x')).size(),
            kMaxPromptChunks);
}

TEST(PrefixIndexUnit, LongestPrefixPerNode) {
  PrefixIndex index;
  const std::vector<uint64_t> shared = {1, 2, 3, 4};
  index.Insert(shared, 0, kStart);
  index.Insert(std::vector<uint64_t>{1, 2, 7}, 1, kStart);
  EXPECT_EQ(index.Match(shared, 3, kStart), (std::vector<size_t>{4, 2, 0}));
  EXPECT_EQ(index.Match(std::vector<uint64_t>{1, 2, 7, 8}, 3, kStart), (std::vector<size_t>{2, 3, 0}));
  EXPECT_EQ(index.Match({}, 2, kStart), (std::vector<size_t>{0, 0}));
  index.Forget(0);
  EXPECT_EQ(index.Match(shared, 3, kStart), (std::vector<size_t>{0, 2, 0}));
}

TEST(PrefixIndexUnit, PlacementsAge) {
  PrefixIndex index({.max_chunks = 100, .max_age = seconds(60)});
  const std::vector<uint64_t> prompt = {1, 2};
  index.Insert(prompt, 0, kStart);
  EXPECT_EQ(index.Match(prompt, 1, kStart + seconds(60)), (std::vector<size_t>{2}));
  EXPECT_EQ(index.Match(prompt, 1, kStart + seconds(61)), (std::vector<size_t>{0}));
  index.Insert(prompt, 0, kStart + seconds(50));
  EXPECT_EQ(index.Match(prompt, 1, kStart + seconds(110)), (std::vector<size_t>{2}));
}

TEST(PrefixIndexUnit, TheLongestUnusedChunkGoesFirst) {
  PrefixIndex index({.max_chunks = 4});
  index.Insert(std::vector<uint64_t>{1, 2, 3}, 0, kStart);
  index.Insert(std::vector<uint64_t>{1, 9}, 0, kStart);
  index.Insert(std::vector<uint64_t>{8}, 0, kStart);  // five chunks: the tail of the first prompt goes
  EXPECT_EQ(index.size(), 4u);
  EXPECT_EQ(index.Match(std::vector<uint64_t>{1, 2, 3}, 1, kStart), (std::vector<size_t>{2}));
  std::vector<uint64_t> endless(1000);
  std::iota(endless.begin(), endless.end(), 100);
  index.Insert(endless, 0, kStart);
  EXPECT_EQ(index.size(), 4u);
  EXPECT_EQ(index.Match(endless, 1, kStart), (std::vector<size_t>{4})) << "the head stays";
}

// Against a plain map from node and prefix.
TEST(PrefixIndexProperty, AgreesWithAModel) {
  base::Rng rng(5);
  PrefixIndex index({.max_chunks = 1'000'000});
  std::map<size_t, std::set<std::vector<uint64_t>>> sent;  // every prefix that a node got
  constexpr size_t kNodes = 4;
  for (int round = 0; round < 500; ++round) {
    // Chains of a small tree: each hash is made from the one before.
    std::vector<uint64_t> prompt;
    uint64_t hash = 1;
    for (uint64_t length = rng.Below(8); length > 0; --length) {
      hash = hash * 31 + rng.Below(2);
      prompt.push_back(hash);
    }
    const std::vector<size_t> matched = index.Match(prompt, kNodes, kStart);
    for (size_t node = 0; node < kNodes; ++node) {
      size_t expected = 0;
      for (size_t length = 1; length <= prompt.size(); ++length) {
        if (!sent[node].contains({prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(length)})) break;
        expected = length;
      }
      ASSERT_EQ(matched[node], expected);
    }
    const size_t node = rng.Below(kNodes);
    index.Insert(prompt, node, kStart);
    for (size_t length = 1; length <= prompt.size(); ++length) {
      sent[node].insert({prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(length)});
    }
  }
}

}  // namespace
}  // namespace kvplane::server
