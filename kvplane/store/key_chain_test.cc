#include "kvplane/store/key_chain.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <unordered_set>

#include "kvplane/base/endian.h"

namespace kvplane::store {
namespace {

std::vector<int32_t> Tokens(size_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 100);
  return tokens;
}

TEST(KeyChainUnit, OneKeyPerWholeRun) {
  const KeySpace space{.run_tokens = 128};
  EXPECT_EQ(KeyChain(space, Tokens(0)).size(), 0u);
  EXPECT_EQ(KeyChain(space, Tokens(127)).size(), 0u);
  EXPECT_EQ(KeyChain(space, Tokens(128)).size(), 1u);
  EXPECT_EQ(KeyChain(space, Tokens(300)).size(), 2u);
}

// A key names its whole prefix: equal prefixes share keys, one token changed changes all keys from there on.
TEST(KeyChainProperty, KeysNamePrefixes) {
  const KeySpace space{.run_tokens = 64};
  const std::vector<int32_t> tokens = Tokens(320);
  const std::vector<StoreKey> keys = KeyChain(space, tokens);
  EXPECT_EQ(KeyChain(space, std::span(tokens).first(200)),
            std::vector<StoreKey>(keys.begin(), keys.begin() + 3));
  for (size_t changed = 0; changed < tokens.size(); changed += 37) {
    std::vector<int32_t> other = tokens;
    ++other[changed];
    const std::vector<StoreKey> others = KeyChain(space, other);
    for (size_t run = 0; run < keys.size(); ++run) {
      EXPECT_EQ(others[run] == keys[run], run < changed / 64) << "token " << changed << ", run " << run;
    }
  }
}

TEST(KeyChainProperty, EveryFieldOfTheSpaceSeparates) {
  KeySpace model;
  model.model_fingerprint[31] = std::byte{1};
  KeySpace rope;
  rope.rope[0] = std::byte{1};
  const std::vector<KeySpace> spaces = {{},
                                        model,
                                        rope,
                                        {.run_tokens = 64},
                                        {.tenant = "a"},
                                        {.salt = "a"},
                                        {.tenant = "ab"},
                                        {.tenant = "a", .salt = "b"}};
  std::set<StoreKey> first;
  std::set<StoreKey> foreign;
  const std::vector<int32_t> tokens = Tokens(256);
  for (const KeySpace& space : spaces) {
    first.insert(KeyChain(space, tokens).front());
    foreign.insert(KeyFromForeign(space, std::as_bytes(std::span(tokens))));
  }
  EXPECT_EQ(first.size(), spaces.size());
  EXPECT_EQ(foreign.size(), spaces.size());
}

TEST(KeyChainUnit, TenantStandsInTheKey) {
  const KeySpace space{.run_tokens = 64, .tenant = "blue"};
  EXPECT_EQ(KeyChain(space, Tokens(64)).front().tenant, TenantId("blue"));
  EXPECT_NE(TenantId("blue"), TenantId(""));
}

TEST(KeySpaceSafety, ImpossibleSpacesAreRefused) {
  EXPECT_TRUE(KeySpace{}.Validate().ok());
  EXPECT_EQ((KeySpace{.run_tokens = 0}.Validate().code()), base::StatusCode::kInvalidArgument);
  EXPECT_EQ((KeySpace{.run_tokens = 100}.Validate().code()), base::StatusCode::kInvalidArgument);
  EXPECT_EQ((KeySpace{.run_tokens = 1 << 20}.Validate().code()), base::StatusCode::kInvalidArgument);
  EXPECT_EQ((KeySpace{.tenant = std::string(257, 'x')}.Validate().code()),
            base::StatusCode::kInvalidArgument);
  EXPECT_EQ((KeySpace{.salt = std::string(257, 'x')}.Validate().code()), base::StatusCode::kInvalidArgument);
}

// Whoever may put chooses every byte of a key: no choice may end in one bucket.
TEST(StoreKeyHashSafety, KeysThatDifferAnywhereLieApart) {
  constexpr uint64_t kKeys = 4096;
  constexpr size_t kMostInABucket = 40;  // one on average, 8 or so in the fullest
  for (size_t word = 0; word < 5; ++word) {
    std::unordered_set<StoreKey, StoreKeyHash> keys;
    for (uint64_t number = 0; number < kKeys; ++number) {
      StoreKey key;
      if (word == 0) key.tenant = number;
      if (word > 0) base::StoreLe(&key.chain[(word - 1) * sizeof(number)], number);
      keys.insert(key);
    }
    size_t fullest = 0;
    for (size_t i = 0; i < keys.bucket_count(); ++i) fullest = std::max(fullest, keys.bucket_size(i));
    EXPECT_EQ(keys.size(), kKeys);
    EXPECT_LE(fullest, kMostInABucket) << "of keys that differ in word " << word;
  }
}

}  // namespace
}  // namespace kvplane::store
