#include <gtest/gtest.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <list>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/base/testing/test_data.h"
#include "kvplane/store/replay/block_trace.h"
#include "kvplane/store/replay/cache_replay.h"
#include "kvplane/store/replay/line_reader.h"

namespace kvplane::store {
namespace {

using base::StatusCode;
using base::testing::NoTestData;
using base::testing::TestData;

// A file of this process that goes with the test.
class TempFile {
 public:
  TempFile(const std::string& name, const std::string& content)
      : path_(::testing::TempDir() + "kvplane_" + std::to_string(::getpid()) + "_" + name) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~TempFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string Packed(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

base::Result<std::vector<std::string>> Lines(const std::string& path) {
  KVPLANE_ASSIGN_OR_RETURN(const auto reader, LineReader::Open(path));
  std::vector<std::string> out;
  for (;;) {
    KVPLANE_ASSIGN_OR_RETURN(const auto line, reader->Next());
    if (!line.has_value()) return out;
    out.push_back(*line);
  }
}

std::vector<uint32_t> BlocksOf(const BlockTrace& trace, size_t request) {
  std::vector<uint32_t> out;
  for (const BlockRun& run : trace.RunsOf(trace.requests[request])) {
    for (uint32_t i = 0; i < run.count; ++i) out.push_back(run.first + i);
  }
  return out;
}

TEST(LineReaderUnit, EndsOfLinesAndOfFiles) {
  const TempFile file("lines.txt", "one\r\ntwo\n\nfour");
  const auto lines = Lines(file.path());
  ASSERT_TRUE(lines.ok());
  EXPECT_EQ(*lines, (std::vector<std::string>{"one", "two", "", "four"}));
  const TempFile ended("ended.txt", "one\n");
  EXPECT_EQ(*Lines(ended.path()), std::vector<std::string>{"one"});
  const TempFile empty("empty.txt", "");
  EXPECT_TRUE(Lines(empty.path())->empty());
}

TEST(LineReaderProperty, PackedAndPlainGiveTheSameLines) {
  std::string text;
  base::Rng rng(5);
  for (int i = 0; i < 20'000; ++i)
    text += std::string(rng.Below(100), static_cast<char>('a' + i % 26)) + "\n";
  text += std::string(1 << 20, 'x');  // longer than the buffers
  const TempFile plain("many.txt", text);
  const TempFile packed("many.txt.zst", Packed(text));
  const auto a = Lines(plain.path());
  const auto b = Lines(packed.path());
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->size(), 20'001u);
  EXPECT_EQ(*a, *b);
}

TEST(LineReaderSafety, DamageIsReported) {
  const std::string packed = Packed(std::string(100'000, 'x') + "\nand a second line\n");
  const TempFile cut("cut.zst", packed.substr(0, packed.size() - 3));
  EXPECT_EQ(Lines(cut.path()).status().code(), StatusCode::kCorrupt);
  const TempFile garbage("garbage.zst", "this is no zstd stream");
  EXPECT_EQ(Lines(garbage.path()).status().code(), StatusCode::kCorrupt);
  const TempFile bomb("bomb.zst", Packed(std::string(kMaxLineBytes + 1, 'x')));
  EXPECT_EQ(Lines(bomb.path()).status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(Lines("/nowhere/at/all").status().code(), StatusCode::kNotFound);
}

TEST(BlockTraceUnit, Mooncake) {
  const TempFile file(
      "mooncake.jsonl",
      R"({"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [0, 7]})"
      "\n"
      R"({"timestamp": 27, "input_length": 1500, "output_length": 6, "hash_ids": [0, 1, 2]})");
  const auto trace = ReadTrace(file.path(), *GuessTraceFormat(file.path()));
  ASSERT_TRUE(trace.ok()) << trace.status().ToString();
  EXPECT_EQ(trace->block_tokens, 512u);
  EXPECT_EQ(trace->blocks, 5u);
  EXPECT_EQ(trace->block_bound, 8u);
  ASSERT_EQ(trace->requests.size(), 2u);
  EXPECT_DOUBLE_EQ(trace->requests[0].time_s, 0.027) << "in order of time";
  EXPECT_EQ(trace->requests[0].input_tokens, 1500u);
  EXPECT_EQ(BlocksOf(*trace, 0), (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(BlocksOf(*trace, 1), (std::vector<uint32_t>{0, 7}));
}

TEST(BlockTraceUnit, AgentSessionsWithSubagentsAndRepetitions) {
  const std::string session = R"({"id":"a","block_size":64,"requests":[)"
                              R"({"t":0,"type":"n","in":200,"out":1,"hash_rle":[[1,3]]},)"
                              R"({"t":4,"type":"subagent","requests":[)"
                              R"({"t":0.5,"type":"n","in":128,"out":2,"hash_rle":[[1,1],[9,1]]}]},)"
                              R"({"t":5,"type":"s","in":300,"out":3,"hash_rle":[[1,3],[5,1]]}]})";
  std::string renamed = session;
  renamed.replace(renamed.find("\"a\""), 3, "\"b\"");
  std::string other = session;
  other.replace(other.find("200"), 3, "201");
  const TempFile file("agent.jsonl", session + "\n" + renamed + "\n" + other + "\n");
  const auto trace = ReadTrace(file.path(), TraceFormat::kAgent, {.session_gap_s = 1000, .seed = 3});
  ASSERT_TRUE(trace.ok()) << trace.status().ToString();
  EXPECT_EQ(trace->block_tokens, 64u);
  EXPECT_EQ(trace->sessions, 2u);
  EXPECT_EQ(trace->dropped_sessions, 1u) << "the same requests under another name";
  ASSERT_EQ(trace->requests.size(), 6u);
  EXPECT_DOUBLE_EQ(trace->requests[1].time_s, 4.5) << "a sub-agent's time counts from its start";
  EXPECT_EQ(BlocksOf(*trace, 1), (std::vector<uint32_t>{1, 9}));
  EXPECT_EQ(BlocksOf(*trace, 2), (std::vector<uint32_t>{1, 2, 3, 5}));
  EXPECT_EQ(BlocksOf(*trace, 3), (std::vector<uint32_t>{11, 12, 13})) << "numbers are local to a session";
  EXPECT_GT(trace->requests[3].time_s, 5.0);
  EXPECT_EQ(trace->requests[3].session, 1u);
}

TEST(BlockTraceUnit, Azure) {
  const TempFile file("azure.csv",
                      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                      "2023-11-16 23:59:59.5000000,1100,44\r\n2023-11-17 00:00:01.2500000,396,109");
  const auto trace = ReadTrace(file.path(), TraceFormat::kAzure);
  ASSERT_TRUE(trace.ok()) << trace.status().ToString();
  EXPECT_FALSE(trace->has_prefixes);
  ASSERT_EQ(trace->requests.size(), 2u);
  EXPECT_DOUBLE_EQ(trace->requests[1].time_s - trace->requests[0].time_s, 1.75);
  EXPECT_EQ(trace->requests[0].run_count, 1u);
  EXPECT_EQ(trace->blocks, 2u);
  EXPECT_EQ(trace->requests[1].run_count, 0u) << "no whole block";
}

TEST(BlockTraceSafety, HostileLinesAreRefusedWithTheirNumber) {
  const auto status = [](const std::string& content, TraceFormat format) {
    const TempFile file("hostile", content);
    return ReadTrace(file.path(), format).status();
  };
  for (const std::string& line : {
           std::string("{"),
           std::string("[]"),
           std::string("{}"),
           std::string(100'000, '['),
           std::string(R"({"timestamp":0,"input_length":-1,"output_length":1,"hash_ids":[]})"),
           std::string(R"({"timestamp":0,"input_length":1,"output_length":1})"),
           std::string(R"({"timestamp":0,"input_length":1,"output_length":1,"hash_ids":[1.5]})"),
           std::string(
               R"({"timestamp":0,"input_length":1,"output_length":1,"hash_ids":[18446744073709551615]})"),
           std::string(R"({"timestamp":"x","input_length":1,"output_length":1,"hash_ids":[]})"),
       }) {
    EXPECT_EQ(status(line, TraceFormat::kMooncake).code(), StatusCode::kCorrupt) << line;
  }
  const std::string begin = R"({"block_size":64,"requests":[{"t":0,"in":1,"out":1,"hash_rle":)";
  for (const char* rle : {"7", "[7]", "[[1,2,3]]", "[[1,-2]]", "[[1,4294967295]]", "[[4294967295,1]]"}) {
    EXPECT_EQ(status(begin + rle + "}]}", TraceFormat::kAgent).code(), StatusCode::kCorrupt) << rle;
  }
  EXPECT_EQ(status(R"({"block_size":64,"requests":[{"t":0,"requests":[{"t":0,"requests":[]}]}]})",
                   TraceFormat::kAgent)
                .code(),
            StatusCode::kCorrupt);
  for (const char* line : {"x", "a,b,c", "2023-11-16 18:15:46.0,1", "2023-11-16 18:15:46.0,1,-2",
                           "2023-11-16 99:15:46.0,1,2", "2023-11-16 18:15:46.x,1,2"}) {
    const base::Status refused =
        status(std::string("2023-11-16 18:15:46.0,1,2\n") + line, TraceFormat::kAzure);
    EXPECT_EQ(refused.code(), StatusCode::kCorrupt) << line;
    EXPECT_NE(refused.message().find("line 2"), std::string::npos) << refused.message();
  }
  EXPECT_EQ(status("", TraceFormat::kAzure).code(), StatusCode::kCorrupt) << "no requests";
}

TEST(BlockTraceUnit, FormatsHaveNames) {
  for (const auto format : {TraceFormat::kMooncake, TraceFormat::kAgent, TraceFormat::kAzure}) {
    EXPECT_EQ(*ParseTraceFormat(Name(format)), format);
  }
  EXPECT_FALSE(ParseTraceFormat("Mooncake").ok());
  EXPECT_FALSE(GuessTraceFormat("/azure/trace.csv").ok()) << "folders do not count";
}

// Requests over shared prefixes: random walks down a tree of blocks.
BlockTrace RandomTrace(uint64_t seed, size_t requests) {
  base::Rng rng(seed);
  BlockTrace trace;
  trace.block_bound = 512;
  for (size_t i = 0; i < requests; ++i) {
    TraceRequest request{.time_s = static_cast<double>(i),
                         .first_run = static_cast<uint32_t>(trace.runs.size())};
    uint32_t node = static_cast<uint32_t>(rng.Below(4));  // children of n: 2n + 4 and 2n + 5
    while (node < trace.block_bound && rng.Below(12) != 0) {
      trace.runs.push_back({.first = node, .count = 1});
      ++request.run_count;
      ++trace.blocks;
      node = 2 * node + 4 + static_cast<uint32_t>(rng.Below(2));
    }
    trace.requests.push_back(request);
  }
  return trace;
}

// The same cache in the plainest form.
uint64_t HitsOfPlainLru(const BlockTrace& trace, size_t capacity) {
  std::list<uint32_t> order;  // newest in front
  uint64_t hits = 0;
  const auto use = [&](uint32_t block) {
    order.remove(block);
    order.push_front(block);
    if (order.size() > capacity) order.pop_back();
  };
  for (size_t i = 0; i < trace.requests.size(); ++i) {
    const auto blocks = BlocksOf(trace, i);
    size_t found = 0;
    while (found < blocks.size() && std::ranges::find(order, blocks[found]) != order.end()) ++found;
    hits += found;
    for (size_t k = found; k-- > 0;) use(blocks[k]);
    for (size_t k = found; k < blocks.size(); ++k) use(blocks[k]);
  }
  return hits;
}

TEST(CacheReplayDiff, LruIsPlainLru) {
  const BlockTrace trace = RandomTrace(11, 3000);
  for (const size_t capacity : {1u, 7u, 50u, 200u, 600u}) {
    const auto result = Replay(trace, {.kind = PolicyKind::kLru}, {.memory = capacity});
    EXPECT_EQ(result.memory_hits, HitsOfPlainLru(trace, capacity)) << capacity;
    EXPECT_EQ(result.blocks, trace.blocks);
  }
}

TEST(CacheReplayProperty, BoundsHoldForEveryPolicyAndStack) {
  const BlockTrace trace = RandomTrace(12, 3000);
  const auto unbounded = Replay(trace, {.kind = PolicyKind::kLru}, {});
  for (const ReplayPolicy& policy :
       {ReplayPolicy{.kind = PolicyKind::kLru}, ReplayPolicy{}, ReplayPolicy{.shape = kPaperS3FifoShape}}) {
    EXPECT_EQ(Replay(trace, policy, {}).memory_hits, unbounded.memory_hits);
    EXPECT_EQ(Replay(trace, policy, {.memory = 1000}).memory_hits, unbounded.memory_hits) << "all fits";
    const auto small = Replay(trace, policy, {.memory = 20});
    EXPECT_LT(small.memory_hits, unbounded.memory_hits);
    const auto stack = Replay(trace, policy, {.memory = 20, .disk = 200, .has_disk = true});
    EXPECT_GT(stack.disk_hits, 0u);
    EXPECT_GT(stack.memory_hits + stack.disk_hits, small.memory_hits);
    EXPECT_LE(stack.memory_hits + stack.disk_hits, unbounded.memory_hits);
    EXPECT_GE(stack.disk_writes, stack.disk_writes_again);
    const auto ample = Replay(trace, policy, {.memory = 20, .disk = 0, .has_disk = true});
    EXPECT_EQ(ample.memory_hits + ample.disk_hits, unbounded.memory_hits);
    EXPECT_EQ(ample.disk_writes_again, 0u) << "nothing ever leaves the disk";
  }
}

// The published curve of plain LRU over 512-token blocks.
TEST(CacheReplayUnit, MooncakeReferencePoints) {
  const auto file = TestData("traces/mooncake_conversation.jsonl.zst");
  if (!std::filesystem::exists(file)) GTEST_SKIP() << NoTestData(file);
  const auto trace = ReadTrace(file.string(), TraceFormat::kMooncake);
  ASSERT_TRUE(trace.ok()) << trace.status().ToString();
  EXPECT_EQ(trace->requests.size(), 12'031u);
  EXPECT_EQ(trace->blocks, 288'500u);
  const std::vector<std::pair<uint64_t, double>> points = {{1'000, 0.044},  {5'000, 0.110},  {10'000, 0.211},
                                                           {30'000, 0.326}, {50'000, 0.355}, {100'000, 0.364},
                                                           {0, 0.366}};
  for (const auto& [capacity, ratio] : points) {
    EXPECT_NEAR(Replay(*trace, {.kind = PolicyKind::kLru}, {.memory = capacity}).ratio(), ratio, 0.002)
        << capacity << " blocks";
  }
  // Where memory is scarce the default must be worth having.
  EXPECT_GT(Replay(*trace, {}, {.memory = 1'000}).ratio(), 0.050);
  EXPECT_GT(Replay(*trace, {}, {.memory = 5'000}).ratio(), 0.125);
}

TEST(CacheReplayUnit, AgentSessionsAreReadWhole) {
  const auto file = TestData("traces/agent_sessions.jsonl.zst");
  if (!std::filesystem::exists(file)) GTEST_SKIP() << NoTestData(file);
  const auto trace = ReadTrace(file.string(), TraceFormat::kAgent);
  ASSERT_TRUE(trace.ok()) << trace.status().ToString();
  EXPECT_EQ(trace->sessions, 411u);
  EXPECT_EQ(trace->dropped_sessions, 9u);
  EXPECT_EQ(trace->requests.size(), 27'460u);
  EXPECT_NEAR(Replay(*trace, {.kind = PolicyKind::kLru}, {}).ratio(), 0.962, 0.001);
}

TEST(CacheReplayUnit, AzureIsReadWhole) {
  const auto file = TestData("traces/azure_2023_conv.csv.zst");
  if (!std::filesystem::exists(file)) GTEST_SKIP() << NoTestData(file);
  const auto trace = ReadTrace(file.string(), TraceFormat::kAzure);
  ASSERT_TRUE(trace.ok()) << trace.status().ToString();
  EXPECT_EQ(trace->requests.size(), 19'366u);
  EXPECT_NEAR(trace->requests.back().time_s - trace->requests.front().time_s, 3501.7, 0.1);
  EXPECT_EQ(Replay(*trace, {}, {}).ratio(), 0);
}

}  // namespace
}  // namespace kvplane::store
