#include "kvplane/store/create_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "kvplane/store/testing/temp_folder.h"

namespace kvplane::store {
namespace {

using base::StatusCode;
using ::testing::HasSubstr;

base::Status StatusOf(std::vector<std::string> specs) { return CreateStore(specs, {}).status(); }

TEST(CreateStoreUnit, Memory) {
  const std::vector<std::string> specs = {"mem:?bytes=3MiB&policy=lru&ttl_s=1.5&quota=1MB"};
  const auto stack = CreateStore(specs, {});
  ASSERT_TRUE(stack.ok()) << stack.status().ToString();
  EXPECT_EQ(stack->store->kind(), TierKind::kDram);
  EXPECT_EQ(stack->store->stats().capacity_bytes, 3u << 20);
  EXPECT_EQ(stack->tiered, nullptr);
  EXPECT_TRUE(StatusOf({"mem:"}).ok());
}

TEST(CreateStoreUnit, SeveralAreTiers) {
  const TempFolder folder;
  const std::vector<std::string> specs = {"mem:?bytes=8MB", "dir:" + folder.path() + "/kv?bytes=1GB",
                                          "tcp://127.0.0.1:1", "redis://127.0.0.1:2"};
  const auto stack = CreateStore(specs, {});
  ASSERT_TRUE(stack.ok()) << stack.status().ToString();
  ASSERT_NE(stack->tiered, nullptr);
  const std::vector<TierStats> tiers = stack->tiered->tier_stats();
  ASSERT_EQ(tiers.size(), 4u);
  EXPECT_EQ(tiers[0].kind, TierKind::kDram);
  EXPECT_EQ(tiers[1].kind, TierKind::kDisk);
  EXPECT_EQ(tiers[1].store.capacity_bytes, 1'000'000'000u);
  EXPECT_EQ(tiers[2].kind, TierKind::kRemote);
  EXPECT_EQ(tiers[2].name, "tcp://127.0.0.1:1");
  EXPECT_EQ(tiers[3].kind, TierKind::kRedis);
  stack->store->Shutdown();
}

TEST(CreateStoreUnit, ErrorsNameWhatIsWrong) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> wrong = {
      {{}, "0 stores"},
      {{"ftp://x"}, "ftp://x: known are mem:"},
      {{""}, "known are mem:"},
      {{"mem:8GiB"}, "'8GiB'"},
      {{"mem:?bytes=many"}, "bytes: 'many'"},
      {{"mem:?size=8GiB"}, "'size' is unknown; known are bytes"},
      {{"mem:?bytes=1GB&bytes=2GB"}, "'bytes' is given twice"},
      {{"mem:?bytes"}, "'bytes' is not NAME=VALUE"},
      {{"mem:?policy=best"}, "'best' is neither"},
      {{"mem:?ttl_s=-1"}, "ttl_s: '-1'"},
      {{"mem:?ttl_s=nan"}, "ttl_s: 'nan'"},
      {{"mem:?bytes=0"}, "mem:?bytes=0"},
      {{"dir:?bytes=1GB"}, "needs a path"},
      {{"dir:/x?byte=1GB"}, "'byte' is unknown"},
      {{"tcp://127.0.0.1"}, "tcp://127.0.0.1"},
      {{"tcp://127.0.0.1:0"}, "has a port"},
      {{"tcp://127.0.0.1:1?connections=x"}, "connections: 'x'"},
      {{"tcp://127.0.0.1:1?connections=0"}, "0 connections"},
      {{"tcp://127.0.0.1:1", "mem:"}, "must be memory"},
      {{"mem:", "mem:"}, "first tier only"},
      {{"mem:", "tape:x"}, "tape:x: known are"},
      {{"redis://127.0.0.1:1?ca_file=/x"}, "ca_file is for rediss:// only"},
      {{"rediss://user:secret@127.0.0.1:1"}, "a password comes from a file"},
      {std::vector<std::string>(9, "mem:"), "9 stores"},
  };
  for (const auto& [specs, message] : wrong) {
    const base::Status status = StatusOf(specs);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.ToString();
    EXPECT_THAT(status.message(), HasSubstr(message));
  }
}

TEST(CreateStoreUnit, ErrorsDoNotQuotePasswords) {
  const base::Status status = StatusOf({"redis://user:secret@127.0.0.1:1?nonsense=1"});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message().find("secret"), std::string::npos) << status.message();
}

TEST(CreateStoreUnit, AFolderIsNotMadeUnasked) {
  const TempFolder folder;
  const std::vector<std::string> specs = {"dir:" + folder.path() + "/none"};
  StoreAccess access;
  access.create = false;
  EXPECT_EQ(CreateStore(specs, access).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace kvplane::store
