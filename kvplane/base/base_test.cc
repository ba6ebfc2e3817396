#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/edit_distance.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/env.h"
#include "kvplane/base/json_depth.h"
#include "kvplane/base/log.h"
#include "kvplane/base/rng.h"
#include "kvplane/base/status.h"
#include "kvplane/base/testing/test_data.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/base/units.h"

namespace kvplane::base {
namespace {

Result<int> Half(int x) {
  if (x % 2 != 0) return InvalidArgument("{} is odd", x);
  return x / 2;
}

Result<int> Quarter(int x) {
  KVPLANE_ASSIGN_OR_RETURN(const int half, Half(x));
  return Half(half);
}

TEST(StatusUnit, PropagatesAndAnnotates) {
  EXPECT_EQ(*Quarter(8), 2);
  const Status status = Quarter(6).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.ToString(), "invalid argument: 3 is odd");
  EXPECT_EQ(status.Annotate("config").message(), "config: 3 is odd");
  EXPECT_TRUE(Status().Annotate("x").ok());
}

TEST(StatusUnit, ResultNeverHoldsAnOkStatus) {
  const Result<int> result = Status();
  EXPECT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kInternal);
}

TEST(UnitsUnit, ParsesBytes) {
  EXPECT_EQ(*ParseBytes("12"), 12u);
  EXPECT_EQ(*ParseBytes("1.5GB"), 1'500'000'000u);
  EXPECT_EQ(*ParseBytes("512MiB"), 536'870'912u);
  EXPECT_FALSE(ParseBytes("-1").ok());
  EXPECT_FALSE(ParseBytes("").ok());
  EXPECT_FALSE(ParseBytes("3 bananas").ok());
  EXPECT_FALSE(ParseBytes("1e30").ok());
  EXPECT_FALSE(ParseBytes("nan").ok());
}

TEST(UnitsUnit, ParsesRates) {
  EXPECT_EQ(*ParseBitsPerSecond("200Mbit/s"), 2e8);
  EXPECT_EQ(*ParseBitsPerSecond("1.5Gbit"), 1.5e9);
  EXPECT_EQ(*ParseBitsPerSecond("25MB/s"), 2e8);
  EXPECT_EQ(*ParseBitsPerSecond("1e6"), 1e6);
  EXPECT_FALSE(ParseBitsPerSecond("fast").ok());
  EXPECT_EQ(FormatBitsPerSecond(2e8), "200 Mbit/s");
  EXPECT_EQ(FormatBytes(3'200'000), "3.2 MB");
}

TEST(ClockUnit, ManualClockMovesOnlyWhenTold) {
  ManualClock clock;
  const TimePoint start = clock.Now();
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(std::chrono::milliseconds(5));
  EXPECT_EQ(ToMicros(clock.Now() - start), 5000);
  clock.SleepUntil(start + std::chrono::seconds(1));
  EXPECT_EQ(ToSeconds(clock.Now() - start), 1.0);
  EXPECT_EQ(TimeLeft(clock, start), Duration::zero());
}

TEST(ClockProperty, ThreadCpuTimeGrowsWithWorkAndNotWithSleep) {
  const Duration before = ThreadCpuTime();
  uint64_t sum = 0;
  while (ThreadCpuTime() - before < std::chrono::milliseconds(2)) sum += Rng(sum).Next();
  Duration other{};
  std::thread([&other] { other = ThreadCpuTime(); }).join();
  EXPECT_GE(ThreadCpuTime() - before, std::chrono::milliseconds(2));
  EXPECT_LT(other, ThreadCpuTime());  // a thread's own account, not the process's
}

TEST(RngProperty, SeededReproducibleAndUniform) {
  Rng a(7), b(7), c(8);
  EXPECT_EQ(a.Next(), b.Next());
  EXPECT_NE(a.Next(), c.Next());
  std::vector<int> counts(10);
  for (int i = 0; i < 100'000; ++i) ++counts[a.Below(10)];
  for (const int count : counts) EXPECT_NEAR(count, 10'000, 500);
  double sum = 0, squares = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double x = a.Normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / 1e5, 0, 0.02);
  EXPECT_NEAR(squares / 1e5, 1, 0.03);
}

TEST(ThreadPoolProperty, EveryIndexRunsOnce) {
  for (const size_t threads : {1u, 2u, 4u}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const size_t count : {0u, 1u, 3u, 1000u}) {
      std::vector<std::atomic<int>> hits(count);
      pool.ParallelFor(count, [&](size_t i, size_t worker) {
        EXPECT_LT(worker, threads);
        ++hits[i];
      });
      for (const auto& hit : hits) EXPECT_EQ(hit.load(), 1);
    }
  }
}

TEST(EndianSafety, ReaderStopsAtTheEnd) {
  std::vector<std::byte> bytes;
  ByteWriter writer(bytes);
  writer.Put<uint32_t>(0x01020304);
  writer.PutString("abc");
  ByteReader reader(bytes);
  EXPECT_EQ(reader.Get<uint32_t>("magic"), 0x01020304u);
  EXPECT_EQ(reader.GetString("name"), "abc");
  EXPECT_TRUE(reader.ok());
  EXPECT_EQ(reader.Get<uint64_t>("length"), 0u);
  EXPECT_EQ(reader.status().ToString(), "corrupt: length needs 8 bytes at offset 9, 0 left");
  EXPECT_EQ(reader.Get<uint8_t>("later"), 0);
  EXPECT_EQ(reader.status().message(), "length needs 8 bytes at offset 9, 0 left");
}

TEST(EndianSafety, LyingStringLength) {
  std::vector<std::byte> bytes;
  ByteWriter(bytes).Put<uint16_t>(1000);
  ByteReader reader(bytes);
  EXPECT_EQ(reader.GetString("name"), "");
  EXPECT_FALSE(reader.ok());
}

TEST(JsonDepthSafety, CountsBracketsOutsideStrings) {
  EXPECT_FALSE(NestsTooDeep("", 0));
  EXPECT_FALSE(NestsTooDeep("1", 0));
  EXPECT_TRUE(NestsTooDeep("[]", 0));
  EXPECT_FALSE(NestsTooDeep(R"({"a": [1, {"b": 2}], "c": [[], []]})", 3));
  EXPECT_TRUE(NestsTooDeep(R"({"a": [1, {"b": 2}], "c": [[], []]})", 2));
  EXPECT_FALSE(NestsTooDeep(R"({"a": "[[[[", "b\"": "\"[[[\\"})", 1));
  EXPECT_TRUE(NestsTooDeep(R"({"a": "\\", "b": [[]]})", 2));
  EXPECT_FALSE(NestsTooDeep("]]]][", 1));
  EXPECT_TRUE(NestsTooDeep(std::string(1'000'000, '[')));
}

TEST(EnvUnit, DocumentationListsEveryVariable) {
  std::ifstream file(std::string(KVPLANE_SOURCE_DIR) + "/docs/environment.md");
  ASSERT_TRUE(file.good());
  std::stringstream text;
  text << file.rdbuf();
  for (const EnvVariable& variable : KnownEnvVariables()) {
    EXPECT_NE(text.str().find(variable.name), std::string::npos) << variable.name;
  }
}

TEST(EnvUnit, TestDataIsWhereTheVariableSays) {
  const std::optional<std::string> before = ReadEnv("KVPLANE_TEST_DATA");
  ASSERT_EQ(::setenv("KVPLANE_TEST_DATA", "/data", 1), 0);
  EXPECT_EQ(testing::TestData("traces/a.zst"), "/data/traces/a.zst");
  EXPECT_NE(testing::NoTestData("/data/traces/a.zst").find("/data/traces/a.zst"), std::string::npos);
  ASSERT_EQ(::setenv("KVPLANE_TEST_DATA", "", 1), 0);  // as if it were not set
  EXPECT_EQ(testing::TestData("traces/a.zst"), KVPLANE_SOURCE_DIR "/../shared/data/traces/a.zst");
  ASSERT_EQ(before ? ::setenv("KVPLANE_TEST_DATA", before->c_str(), 1) : ::unsetenv("KVPLANE_TEST_DATA"), 0);
}

TEST(EditDistanceUnit, CountsSingleByteEdits) {
  EXPECT_EQ(EditDistance("", ""), 0u);
  EXPECT_EQ(EditDistance("", "abc"), 3u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
  EXPECT_EQ(EditDistance("--mdoel", "--model"), 2u);
  EXPECT_EQ(EditDistance("serve", "serve"), 0u);
}

TEST(LogUnit, Levels) {
  EXPECT_EQ(*ParseLogLevel("warn"), LogLevel::kWarn);
  EXPECT_FALSE(ParseLogLevel("loud").ok());
}

}  // namespace
}  // namespace kvplane::base
