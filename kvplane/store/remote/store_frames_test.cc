#include "kvplane/store/remote/store_frames.h"

#include <gtest/gtest.h>

#include <vector>

#include "kvplane/store/remote/put_budget.h"

namespace kvplane::store {
namespace {

using base::StatusCode;

StoreKey Key(uint8_t fill) {
  StoreKey key{.tenant = 0x0102030405060708};
  key.chain.fill(std::byte{fill});
  return key;
}

std::span<const std::byte> HeadOf(const std::vector<std::byte>& frame) {
  return std::span(frame).subspan(transport::kFrameHeaderBytes);
}

std::vector<uint8_t> Numbers(std::span<const std::byte> bytes) {
  std::vector<uint8_t> out;
  for (const std::byte b : bytes) out.push_back(static_cast<uint8_t>(b));
  return out;
}

TEST(StoreFramesUnit, ExactBytes) {
  ReadFrame read;
  read.remaining_ms = 500;
  read.range = {Key(0xaa), 4096, 255};
  const std::vector<std::byte> frame = EncodeStoreFrame(7, read);
  ASSERT_EQ(frame.size(), 32u + 60u);
  EXPECT_EQ(Numbers(std::span(frame).first(12)),
            (std::vector<uint8_t>{'K', 'V', 'P', 'S', 1, 0, 5, 0, 7, 0, 0, 0}));
  EXPECT_EQ(Numbers(HeadOf(frame).first(12)), (std::vector<uint8_t>{0xf4, 1, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1}));
  EXPECT_EQ(Numbers(HeadOf(frame).subspan(12, 32)), std::vector<uint8_t>(32, 0xaa));
  EXPECT_EQ(Numbers(HeadOf(frame).subspan(44)),
            (std::vector<uint8_t>{0, 16, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0}));

  PutFrame put;
  put.remaining_ms = 1;
  put.key = Key(0);
  put.bytes = 1000;
  put.meta = {.prefix_bytes = 320, .quality = 975, .ttl = std::chrono::microseconds(1500)};
  put.options.durable = true;
  const std::vector<std::byte> bytes = EncodeStoreFrame(1, put);
  EXPECT_EQ(
      Numbers(HeadOf(bytes).subspan(44)),
      (std::vector<uint8_t>{0xe8, 3, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 0xcf, 3, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(StoreFramesUnit, FieldsComeBack) {
  PutFrame put;
  put.remaining_ms = 77;
  put.key = Key(3);
  put.bytes = 1 << 20;
  put.meta = {.prefix_bytes = 11, .quality = 999, .ttl = std::chrono::seconds(3600)};
  put.options.durable = true;
  const PutFrame again = *ParsePut(HeadOf(EncodeStoreFrame(1, put)));
  EXPECT_EQ(again.remaining_ms, 77u);
  EXPECT_EQ(again.key, put.key);
  EXPECT_EQ(again.bytes, put.bytes);
  EXPECT_EQ(again.meta.prefix_bytes, 11u);
  EXPECT_EQ(again.meta.quality, 999);
  EXPECT_EQ(again.meta.ttl, std::chrono::seconds(3600));
  EXPECT_TRUE(again.options.durable);

  const StatusFrame refused{base::ResourceExhausted("full"), 9};
  const StatusFrame refusal = *ParseStatus(HeadOf(EncodeStoreFrame(1, refused)));
  EXPECT_EQ(refusal.status, refused.status);
  EXPECT_EQ(refusal.value, 9u);
  EXPECT_TRUE(ParseStatus(HeadOf(EncodeStoreFrame(1, StatusFrame{base::Status::Ok(), 4})))->status.ok());

  CountersFrame counters;
  counters.tiers.push_back({TierKind::kDram, "dram", {.entries = 1, .bytes = 2, .hits = 3, .errors = 4}});
  counters.tiers.push_back({TierKind::kRedis, "redis://x", {.puts = 5}});
  const CountersFrame counted = *ParseCounters(HeadOf(EncodeStoreFrame(1, counters)));
  ASSERT_EQ(counted.tiers.size(), 2u);
  EXPECT_EQ(counted.tiers[0].stats.errors, 4u);
  EXPECT_EQ(counted.tiers[0].stats.hits, 3u);
  EXPECT_EQ(counted.tiers[1].kind, TierKind::kRedis);
  EXPECT_EQ(counted.tiers[1].name, "redis://x");
  EXPECT_EQ(counted.tiers[1].stats.puts, 5u);
}

TEST(StoreFramesUnit, KeysAndEntriesComeBack) {
  const std::vector<StoreKey> keys = {Key(1), Key(2), Key(255)};
  EXPECT_EQ(*DecodeKeys(3, EncodeKeys(keys)), keys);
  EXPECT_EQ(DecodeKeys(2, EncodeKeys(keys)).status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(DecodeKeys(~0u, {}).status().code(), StatusCode::kCorrupt);
  // 107,374,183 keys of 40 bytes are 24 bytes more than 2^32.
  EXPECT_EQ(DecodeKeys(107'374'183, std::vector<std::byte>(24)).status().code(), StatusCode::kCorrupt);

  const std::vector<EntryInfo> entries = {
      {.bytes = 100, .prefix_bytes = 100, .quality = 1000, .tier = TierKind::kDisk, .ttl_left = {}},
      {.bytes = 0, .prefix_bytes = 0, .quality = 0, .tier = TierKind::kDram, .ttl_left = base::Duration(1)},
  };
  const auto again = DecodeEntries(2, EncodeEntries(entries));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ((*again)[0].tier, TierKind::kDisk);
  EXPECT_EQ((*again)[0].ttl_left, base::Duration::zero());
  EXPECT_EQ((*again)[1].ttl_left, std::chrono::milliseconds(1)) << "an end in sight stays one";
  std::vector<EntryInfo> impossible = {{.bytes = 5, .prefix_bytes = 6, .quality = 0}};
  EXPECT_EQ(DecodeEntries(1, EncodeEntries(impossible)).status().code(), StatusCode::kCorrupt);
  impossible = {{.bytes = kMaxStoredBytes + 1, .prefix_bytes = 0, .quality = 0}};
  EXPECT_EQ(DecodeEntries(1, EncodeEntries(impossible)).status().code(), StatusCode::kCorrupt);
}

TEST(StoreFramesUnit, TimesAreBounded) {
  const base::TimePoint now = base::TimePoint(std::chrono::hours(1));
  EXPECT_EQ(RemainingMs(now, now - std::chrono::seconds(1)), 1u);
  EXPECT_EQ(RemainingMs(now, now + std::chrono::microseconds(1)), 1u);
  EXPECT_EQ(RemainingMs(now, now + std::chrono::milliseconds(250)), 250u);
  EXPECT_EQ(RemainingMs(now, base::kNoDeadline), 600'000u);
  EXPECT_EQ(DeadlineOf(now, 250), now + std::chrono::milliseconds(250));
  EXPECT_EQ(DeadlineOf(now, ~0u), now + kMaxRequestTime);
  PutFrame put;
  put.meta.ttl = base::Duration::max();
  const base::Duration ttl = ParsePut(HeadOf(EncodeStoreFrame(1, put)))->meta.ttl;
  EXPECT_GT(ttl, std::chrono::hours(24 * 365 * 99));
}

TEST(StoreFramesUnit, LaterVersionsMayAppend) {
  const std::vector<std::byte> frame = EncodeStoreFrame(1, ReadFrame{});
  std::vector<std::byte> head(HeadOf(frame).begin(), HeadOf(frame).end());
  head.resize(head.size() + 9, std::byte{0xff});
  EXPECT_TRUE(ParseRead(head).ok());

  // A tier with one counter more than this build knows, of a kind it does not know.
  CountersFrame counters;
  counters.tiers.push_back({TierKind::kDram, "x", {}});
  std::vector<std::byte> bytes = EncodeStoreFrame(1, counters);
  const size_t count_at = transport::kFrameHeaderBytes + 1 + 1 + 2 + 1;
  ASSERT_EQ(bytes[count_at], std::byte{16});
  bytes[count_at] = std::byte{17};
  bytes[transport::kFrameHeaderBytes + 1] = std::byte{99};
  bytes.resize(bytes.size() + 8, std::byte{1});
  const auto counted = ParseCounters(HeadOf(bytes));
  ASSERT_TRUE(counted.ok()) << counted.status().ToString();
  EXPECT_EQ(counted->tiers[0].kind, TierKind::kRemote);
}

// Every head cut short anywhere is an error that names a field, never a read beyond the end.
template <typename Frame, typename Parse>
void CutAnywhere(const Frame& frame, Parse parse) {
  const std::vector<std::byte> bytes = EncodeStoreFrame(1, frame);
  const std::span<const std::byte> head = HeadOf(bytes);
  ASSERT_TRUE(parse(head).ok());
  for (size_t length = 0; length < head.size(); ++length) {
    const std::vector<std::byte> cut(head.begin(), head.begin() + static_cast<std::ptrdiff_t>(length));
    EXPECT_EQ(parse(cut).status().code(), StatusCode::kCorrupt) << "length " << length;
  }
}

TEST(StoreFramesSafety, CutHeads) {
  StoreHello hello;
  hello.name = "dram";
  hello.software = "x";
  CutAnywhere(hello, ParseStoreHello);
  CutAnywhere(StatusFrame{base::NotFound("gone"), 1}, ParseStatus);
  CutAnywhere(LookupFrame{}, ParseLookup);
  CutAnywhere(TouchFrame{}, ParseTouch);
  CutAnywhere(FoundFrame{}, ParseFound);
  CutAnywhere(ReadFrame{}, ParseRead);
  CutAnywhere(DataFrame{}, ParseData);
  CutAnywhere(PutFrame{}, ParsePut);
  CutAnywhere(GoFrame{}, ParseGo);
  CutAnywhere(PutDataFrame{}, ParsePutData);
  CutAnywhere(PinFrame{}, ParsePin);
  CutAnywhere(EraseFrame{}, ParseErase);
  CutAnywhere(EraseTenantFrame{}, ParseEraseTenant);
  CutAnywhere(QuarantineFrame{}, ParseQuarantine);
  CutAnywhere(FlushFrame{}, ParseFlush);
  CutAnywhere(StatsFrame{}, ParseStats);
  CutAnywhere(CountersFrame{{{TierKind::kDisk, "disk /x", {}}}}, ParseCounters);
  CutAnywhere(StorePing{}, ParseStorePing);
  CutAnywhere(StorePong{}, ParseStorePong);
  CutAnywhere(StoreAbort{base::Corrupt("x")}, ParseStoreAbort);
}

TEST(StoreFramesSafety, AnotherProtocolIsToldApart) {
  std::vector<std::byte> frame = EncodeStoreFrame(0, StorePing{1});
  const auto header = std::span(frame).first<transport::kFrameHeaderBytes>();
  EXPECT_TRUE(transport::ParseFrameHeader(kStoreProtocol, header).ok());
  const transport::FrameProtocol transfer{0x5750'564b, 1};
  EXPECT_EQ(transport::ParseFrameHeader(transfer, header).status().code(), StatusCode::kCorrupt);
}

class Grants final : public PutBudget::Receiver {
 public:
  void OnPutGranted(const std::shared_ptr<PutBudget::Ticket>& ticket) override {
    streams.push_back(ticket->stream);
  }
  std::vector<uint32_t> streams;
};

std::shared_ptr<PutBudget::Ticket> TicketFor(const std::shared_ptr<Grants>& receiver, uint64_t connection,
                                             uint32_t stream, uint64_t bytes) {
  auto ticket = std::make_shared<PutBudget::Ticket>();
  ticket->receiver = receiver;
  ticket->address = std::to_string(connection);
  ticket->connection = connection;
  ticket->stream = stream;
  ticket->bytes = bytes;
  return ticket;
}

TEST(PutBudgetUnit, FirstComeFirstServedOfThoseThatWait) {
  PutBudget budget({.total = 100, .of_address = 1000, .of_connection = 60});
  EXPECT_EQ(budget.largest(), 100u);
  const auto grants = std::make_shared<Grants>();
  const auto a = TicketFor(grants, 1, 1, 60);
  const auto b = TicketFor(grants, 2, 2, 30);
  const auto c = TicketFor(grants, 3, 3, 10);
  const auto d = TicketFor(grants, 4, 4, 25);
  EXPECT_TRUE(budget.Acquire(a));
  EXPECT_FALSE(budget.Acquire(b)) << "30 of 40: more than it would leave";
  EXPECT_TRUE(budget.Acquire(c)) << "held up by nobody";
  EXPECT_FALSE(budget.Acquire(d));
  EXPECT_EQ(budget.reserved_bytes(), 70u);
  budget.Release(a);
  EXPECT_EQ(grants->streams, (std::vector<uint32_t>{2, 4}));
  EXPECT_EQ(budget.reserved_bytes(), 65u);
  budget.Release(a);
  EXPECT_EQ(budget.reserved_bytes(), 65u) << "a second release does nothing";
  budget.Release(b);
  budget.Release(c);
  budget.Release(d);
  EXPECT_EQ(budget.reserved_bytes(), 0u);
}

TEST(PutBudgetUnit, AConnectionAtItsLimitHoldsUpNobodyElse) {
  PutBudget budget({.total = 100, .of_address = 1000, .of_connection = 60});
  const auto grants = std::make_shared<Grants>();
  const auto a = TicketFor(grants, 1, 1, 50);
  const auto b = TicketFor(grants, 1, 2, 20);
  const auto c = TicketFor(grants, 2, 3, 25);
  EXPECT_TRUE(budget.Acquire(a));
  EXPECT_FALSE(budget.Acquire(b));
  EXPECT_TRUE(budget.Acquire(c));
  budget.Release(b);
  EXPECT_TRUE(grants->streams.empty());
  budget.Release(a);
  budget.Release(c);
  EXPECT_EQ(budget.reserved_bytes(), 0u);
  const auto late = TicketFor(grants, 1, 4, 10);
  budget.Release(late);
  EXPECT_FALSE(budget.Acquire(late)) << "given up before it was asked for";
  EXPECT_EQ(budget.reserved_bytes(), 0u);
}

TEST(PutBudgetSafety, ReceiversThatAreGoneKeepNothing) {
  PutBudget budget({.total = 100, .of_address = 1000, .of_connection = 100});
  const auto grants = std::make_shared<Grants>();
  auto gone = std::make_shared<Grants>();
  const auto a = TicketFor(grants, 1, 1, 100);
  const auto b = TicketFor(gone, 2, 2, 100);
  const auto c = TicketFor(grants, 3, 3, 100);
  EXPECT_TRUE(budget.Acquire(a));
  EXPECT_FALSE(budget.Acquire(b));
  EXPECT_FALSE(budget.Acquire(c));
  gone.reset();
  budget.Release(a);
  EXPECT_EQ(grants->streams, std::vector<uint32_t>{3});
  EXPECT_EQ(budget.reserved_bytes(), 100u);
}

}  // namespace
}  // namespace kvplane::store
