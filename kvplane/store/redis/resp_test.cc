#include "kvplane/store/redis/resp.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/store/redis/testing/memory_stream.h"

#ifdef KVPLANE_HAVE_HIREDIS
#include <hiredis.h>
#endif

namespace kvplane::store {
namespace {

constexpr RespLimits kAmple = {.max_bulk_bytes = 1 << 20, .max_elements = 1 << 16};

base::Result<RespValue> Parse(std::string_view bytes, const RespLimits& limits = kAmple) {
  MemoryStream stream(bytes);
  RespReader reader(stream);
  return reader.Next(limits, base::kNoDeadline);
}

base::StatusCode CodeOf(std::string_view bytes, const RespLimits& limits = kAmple) {
  return Parse(bytes, limits).status().code();
}

TEST(RespReaderUnit, EveryKind) {
  EXPECT_EQ(Parse("+OK\r\n")->kind, RespKind::kSimple);
  EXPECT_EQ(Parse("+OK\r\n")->view(), "OK");
  EXPECT_EQ(Parse("-MOVED 3999 127.0.0.1:6381\r\n")->kind, RespKind::kError);
  EXPECT_EQ(Parse("-MOVED 3999 127.0.0.1:6381\r\n")->view(), "MOVED 3999 127.0.0.1:6381");
  EXPECT_EQ(Parse(":-42\r\n")->integer, -42);
  EXPECT_EQ(Parse("$5\r\nhello\r\n")->view(), "hello");
  EXPECT_EQ(Parse("$0\r\n\r\n")->kind, RespKind::kBulk);
  EXPECT_EQ(Parse("$0\r\n\r\n")->bulk.size(), 0u);
  EXPECT_EQ(Parse("$4\r\n\r\n\r\n\r\n")->view(), "\r\n\r\n");
  EXPECT_EQ(Parse("$-1\r\n")->kind, RespKind::kNil);
  EXPECT_EQ(Parse("*-1\r\n")->kind, RespKind::kNil);
  const auto array = Parse("*3\r\n:1\r\n*1\r\n+a\r\n$-1\r\n");
  ASSERT_TRUE(array.ok());
  ASSERT_EQ(array->array.size(), 3u);
  EXPECT_EQ(array->array[0].integer, 1);
  EXPECT_EQ(array->array[1].array[0].text, "a");
  EXPECT_EQ(array->array[2].kind, RespKind::kNil);
}

TEST(RespReaderUnit, RepliesInARowNeedNoOtherBytesThanTheirs) {
  MemoryStream stream("+a\r\n$3\r\nbcd\r\n:7\r\n", 3);
  RespReader reader(stream);
  EXPECT_EQ(reader.Next(kAmple, base::kNoDeadline)->view(), "a");
  EXPECT_EQ(reader.Next(kAmple, base::kNoDeadline)->view(), "bcd");
  EXPECT_EQ(reader.Next(kAmple, base::kNoDeadline)->integer, 7);
  EXPECT_EQ(reader.buffered(), 0u);
  EXPECT_EQ(reader.Next(kAmple, base::kNoDeadline).status().code(), base::StatusCode::kUnavailable);
}

TEST(RespReaderSafety, BrokenRepliesAreCorrupt) {
  for (const std::string_view bytes :
       {"\r\n", "x\r\n", "hello\r\n", ":\r\n", ":1a\r\n", ":+1\r\n", ":01\r\n", ":-0\r\n", ": 1\r\n",
        ":9223372036854775808\r\n", "$\r\n", "$-2\r\n", "$a\r\n", "*-2\r\n", "$3\r\nabcde\r\n",
        "$3\r\nab\r\n\r\n", "*2\r\n:1\r\n?\r\n", "$18446744073709551615\r\n"}) {
    EXPECT_EQ(CodeOf(bytes), base::StatusCode::kCorrupt) << bytes;
  }
  for (const std::string_view cut :
       {"", "+", "+OK", "+OK\r", "$5\r\nhel", "$5\r\nhello", "$5\r\nhello\r", "*1\r\n"}) {
    EXPECT_EQ(CodeOf(cut), base::StatusCode::kUnavailable) << cut;
  }
}

// A status line of `bytes`, its end not counted.
std::string LineOf(size_t bytes) { return fmt::format("{:+<{}}\r\n", '+', bytes); }

TEST(RespReaderSafety, LimitsHoldBeforeAnythingIsAllocated) {
  EXPECT_EQ(CodeOf("$101\r\n", {.max_bulk_bytes = 100}), base::StatusCode::kCorrupt);
  EXPECT_EQ(CodeOf("$9223372036854775807\r\n"), base::StatusCode::kCorrupt);
  EXPECT_EQ(CodeOf("*1\r\n:1\r\n", {.max_elements = 0}), base::StatusCode::kCorrupt);
  EXPECT_EQ(CodeOf("*2\r\n*1\r\n:1\r\n*1\r\n:1\r\n", {.max_elements = 3}), base::StatusCode::kCorrupt);
  EXPECT_EQ(CodeOf("*2147483647\r\n"), base::StatusCode::kCorrupt);
  std::string deep;
  for (uint32_t i = 0; i < kMaxRespDepth; ++i) deep += "*1\r\n";
  EXPECT_TRUE(Parse(deep + ":1\r\n").ok());
  EXPECT_EQ(CodeOf(deep + "*1\r\n:1\r\n"), base::StatusCode::kCorrupt);
  EXPECT_TRUE(Parse(LineOf(kMaxRespLineBytes)).ok());
  EXPECT_EQ(CodeOf(LineOf(kMaxRespLineBytes + 1)), base::StatusCode::kCorrupt);
  EXPECT_EQ(CodeOf(std::string(1 << 20, '+')), base::StatusCode::kCorrupt);
}

TEST(RespCommandUnit, EncodesAsRedisExpects) {
  MemoryStream stream("");
  const std::string body(70, 'b');
  RespCommand get(2);
  get.Arg("GET").Arg("k");
  RespCommand set(5);
  set.Arg("SET").Arg("k").Payload(std::as_bytes(std::span("ab", 2)), std::as_bytes(std::span(body)));
  set.Arg("PX").Arg(uint64_t{1500});
  const RespCommand* const commands[] = {&get, &set, &get};
  ASSERT_TRUE(WriteRespCommands(stream, commands, base::kNoDeadline).ok());
  const std::string_view get_text = "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
  EXPECT_EQ(stream.written(),
            fmt::format("{0}*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$72\r\nab{1}\r\n$2\r\nPX\r\n$4\r\n1500\r\n{0}",
                        get_text, body));
  EXPECT_EQ(get.bytes() * 2 + set.bytes(), stream.written().size());
}

// A random reply, as bytes.
std::string RandomReply(base::Rng& rng, int depth) {
  const auto random_text = [&](size_t most, bool binary) {
    std::string text(rng.Below(most + 1), ' ');
    for (char& c : text) c = static_cast<char>(binary ? rng.Below(256) : ' ' + rng.Below(95));
    return text;
  };
  switch (rng.Below(depth > 0 ? 7 : 6)) {
    case 0:
      return fmt::format("+{}\r\n", random_text(40, false));
    case 1:
      return fmt::format("-ERR {}\r\n", random_text(40, false));
    case 2:
      return fmt::format(":{}\r\n", static_cast<int64_t>(rng.Next()) >> rng.Below(64));
    case 3:
      return rng.Below(2) == 0 ? "$-1\r\n" : "*-1\r\n";
    case 4:
    case 5: {
      const std::string text = random_text(rng.Below(20) == 0 ? 40'000 : 200, true);
      return fmt::format("${}\r\n{}\r\n", text.size(), text);
    }
    default: {
      const uint64_t count = rng.Below(6);
      std::string out = fmt::format("*{}\r\n", count);
      for (uint64_t i = 0; i < count; ++i) out += RandomReply(rng, depth - 1);
      return out;
    }
  }
}

// However the bytes are cut on their way, the same value comes out.
std::string Describe(const RespValue& value) {
  std::string out = fmt::format("{}:{}:{}:", static_cast<int>(value.kind), value.integer, value.view());
  for (const RespValue& element : value.array) out += fmt::format("({})", Describe(element));
  return out;
}

TEST(RespReaderProperty, PiecesDoNotMatter) {
  base::Rng rng(7);
  for (int round = 0; round < 300; ++round) {
    const std::string bytes = RandomReply(rng, 3) + RandomReply(rng, 3);
    std::string expected;
    for (const size_t piece : {~size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{7}, size_t{1000}}) {
      MemoryStream stream(bytes, piece);
      RespReader reader(stream);
      const auto first = reader.Next(kAmple, base::kNoDeadline);
      const auto second = reader.Next(kAmple, base::kNoDeadline);
      ASSERT_TRUE(first.ok() && second.ok()) << first.status().ToString();
      const std::string got = fmt::format("{}|{}", Describe(*first), Describe(*second));
      if (expected.empty()) expected = got;
      ASSERT_EQ(got, expected) << "pieces of " << piece;
    }
  }
}

#ifdef KVPLANE_HAVE_HIREDIS
std::string DescribeOracle(const redisReply& reply) {
  const auto kind = [&] {
    switch (reply.type) {
      case REDIS_REPLY_STATUS:
        return RespKind::kSimple;
      case REDIS_REPLY_ERROR:
        return RespKind::kError;
      case REDIS_REPLY_INTEGER:
        return RespKind::kInteger;
      case REDIS_REPLY_STRING:
        return RespKind::kBulk;
      case REDIS_REPLY_ARRAY:
        return RespKind::kArray;
      default:
        return RespKind::kNil;
    }
  }();
  const bool text = kind == RespKind::kSimple || kind == RespKind::kError || kind == RespKind::kBulk;
  std::string out =
      fmt::format("{}:{}:{}:", static_cast<int>(kind), kind == RespKind::kInteger ? reply.integer : 0,
                  text ? std::string_view(reply.str, reply.len) : std::string_view());
  for (size_t i = 0; kind == RespKind::kArray && i < reply.elements; ++i) {
    out += fmt::format("({})", DescribeOracle(*reply.element[i]));
  }
  return out;
}

// Empty: hiredis refuses the bytes, or wants more of them.
std::string Oracle(std::string_view bytes, bool& refused) {
  redisReader* const reader = redisReaderCreate();
  redisReaderFeed(reader, bytes.data(), bytes.size());
  void* reply = nullptr;
  refused = redisReaderGetReply(reader, &reply) != REDIS_OK;
  std::string out;
  if (reply != nullptr) {
    out = DescribeOracle(*static_cast<redisReply*>(reply));
    freeReplyObject(reply);
  }
  redisReaderFree(reader);
  return out;
}

TEST(RespReaderDiff, ReadsWhatHiredisReads) {
  base::Rng rng(11);
  for (int round = 0; round < 3000; ++round) {
    const std::string bytes = RandomReply(rng, 3);
    const auto ours = Parse(bytes);
    ASSERT_TRUE(ours.ok()) << ours.status().ToString();
    bool refused = false;
    ASSERT_EQ(Describe(*ours), Oracle(bytes, refused));
  }
}

// What was damaged on its way is read alike, or refused by us at least where hiredis refuses it.
TEST(RespReaderDiff, RefusesWhatHiredisRefuses) {
  base::Rng rng(13);
  int refusals = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string bytes = RandomReply(rng, 2);
    for (uint64_t flips = 1 + rng.Below(3); flips > 0; --flips) {
      const size_t at =
          rng.Below(4) == 0 ? rng.Below(bytes.size()) : rng.Below(std::min<size_t>(bytes.size(), 12));
      bytes[at] = "+-:$*0123456789\r\n a"[rng.Below(19)];
    }
    const auto ours = Parse(bytes);
    bool refused = false;
    const std::string oracle = Oracle(bytes, refused);
    if (refused) {
      ++refusals;
      ASSERT_FALSE(ours.ok()) << bytes;
    } else if (ours.ok()) {
      ASSERT_EQ(Describe(*ours), oracle) << bytes;
    }
  }
  EXPECT_GT(refusals, 250);
}
#endif

}  // namespace
}  // namespace kvplane::store
