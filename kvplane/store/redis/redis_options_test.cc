#include "kvplane/store/redis/redis_options.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

namespace kvplane::store {
namespace {

TEST(RedisSpecUnit, Addresses) {
  const auto one = ParseRedisSpec("redis://127.0.0.1:6379");
  ASSERT_TRUE(one.ok()) << one.status().ToString();
  EXPECT_EQ(one->seeds, (std::vector<RedisAddress>{{"127.0.0.1", 6379}}));
  EXPECT_TRUE(one->password.empty());
  const auto three = ParseRedisSpec("redis://a:1,[::1]:2,c.example:3/?prefix=team-7&ttl_s=60&connections=2");
  ASSERT_TRUE(three.ok()) << three.status().ToString();
  EXPECT_EQ(three->seeds, (std::vector<RedisAddress>{{"a", 1}, {"::1", 2}, {"c.example", 3}}));
  EXPECT_EQ(three->prefix, "team-7");
  EXPECT_EQ(three->default_ttl, std::chrono::seconds(60));
  EXPECT_EQ(three->connections_per_node, 2u);
}

TEST(RedisSpecUnit, Passwords) {
  const auto plain = ParseRedisSpec("redis://kv:s3cret@h:1");
  ASSERT_TRUE(plain.ok()) << plain.status().ToString();
  EXPECT_EQ(plain->user, "kv");
  EXPECT_EQ(plain->password, "s3cret");
  const auto coded = ParseRedisSpec("redis://:a%40b%3A%25@h:1,i:2");
  ASSERT_TRUE(coded.ok()) << coded.status().ToString();
  EXPECT_EQ(coded->user, "");
  EXPECT_EQ(coded->password, "a@b:%");

  const std::filesystem::path path = std::filesystem::temp_directory_path() / "kvplane_redis_password_test";
  std::ofstream(path) << "from file\nsecond line\n";
  const auto file = ParseRedisSpec("redis://h:1?user=kv&password_file=" + path.string());
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_EQ(file->user, "kv");
  EXPECT_EQ(file->password, "from file");
  std::ofstream(path) << "";
  EXPECT_EQ(ParseRedisSpec("redis://h:1?password_file=" + path.string()).status().code(),
            base::StatusCode::kInvalidArgument);
  std::filesystem::remove(path);
  EXPECT_EQ(ParseRedisSpec("redis://h:1?password_file=" + path.string()).status().code(),
            base::StatusCode::kNotFound);
}

TEST(RedisSpecSafety, MalformedTextsAreRefusedWithoutTheirPasswords) {
  for (const std::string_view spec : {"",
                                      "redis:",
                                      "tcp://h:1",
                                      "redis://",
                                      "redis://h",
                                      "redis://h:0",
                                      "redis://h:1,",
                                      "redis://h:99999",
                                      "redis://SECRET@h:1",
                                      "redis://u:SECRET%4@h:1",
                                      "redis://u:SECRET%zz@h:1",
                                      "redis://u:SECRET@",
                                      "redis://u:SECRET?SECRET@h:1",
                                      "redis://h:1?prefix=",
                                      "redis://h:1?prefix=a{b",
                                      "redis://h:1?prefix=a:b",
                                      "redis://h:1?prefix=a*",
                                      "redis://h:1?ttl_s=x",
                                      "redis://h:1?ttl_s=-1",
                                      "redis://h:1?connections=0",
                                      "redis://h:1?connections=257",
                                      "redis://h:1?colour=red",
                                      "redis://h:1?user=kv",
                                      "redis://h:1?cert_file=/SECRET",
                                      "rediss:/h:1",
                                      "rediss://h:1?user=kv",
                                      "rediss://u:SECRET@h:1",
                                      "rediss://:SECRET@h:1",
                                      "redis://h:1?=",
                                      "redis://h:1?ttl_s=1&&"}) {
    const auto options = ParseRedisSpec(spec);
    EXPECT_EQ(options.status().code(), base::StatusCode::kInvalidArgument) << spec;
    EXPECT_EQ(options.status().message().find("SECRET"), std::string::npos) << options.status().message();
  }
  std::string many = "redis://a:1";
  for (size_t i = 0; i < kMaxRedisSeeds; ++i) many += ",a:1";
  EXPECT_EQ(ParseRedisSpec(many).status().code(), base::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvplane::store
