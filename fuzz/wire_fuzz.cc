// The KV transfer protocol against arbitrary bytes.
//
// First byte 0: the rest is a byte stream, read frame by frame as a connection's reader does. Otherwise the
// byte chooses a frame type and the rest is its head (so that the fuzzer need not find CRCs). A head that
// parses must survive being written and parsed again, and an OPEN that parses must not upset the code that
// takes it over.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/transfer/frame_reader.h"
#include "kvplane/transfer/peer_capabilities.h"
#include "kvplane/transfer/tile_grid.h"
#include "kvplane/transfer/wire_frames.h"

namespace {

namespace base = kvplane::base;
namespace codec = kvplane::codec;
namespace transfer = kvplane::transfer;

// A stream that holds what the fuzzer gave and then ends.
class MemoryStream final : public kvplane::transport::Stream {
 public:
  explicit MemoryStream(std::span<const std::byte> bytes) : bytes_(bytes) {}
  base::Status Write(std::span<const std::span<const std::byte>>, base::TimePoint) override {
    return base::Status::Ok();
  }
  base::Status Read(std::span<std::byte> into, base::TimePoint) override {
    if (into.size() > bytes_.size()) return base::Unavailable("end of input");
    if (!into.empty()) std::memcpy(into.data(), bytes_.data(), into.size());
    bytes_ = bytes_.subspan(into.size());
    return base::Status::Ok();
  }
  void Shutdown() override {}
  std::string peer() const override { return "fuzzer"; }

 private:
  std::span<const std::byte> bytes_;
};

template <typename Frame, typename Parse>
void RoundTrip(std::span<const std::byte> head, Parse parse) {
  const base::Result<Frame> frame = parse(head);
  if (!frame.ok()) return;
  const std::vector<std::byte> again = transfer::EncodeFrame(1, *frame);
  KVPLANE_CHECK(parse(std::span(again).subspan(transfer::kFrameHeaderBytes)).ok());
  KVPLANE_CHECK(transfer::ParseFrameHeader(std::span(again).first<transfer::kFrameHeaderBytes>()).ok());
}

void TakeOver(std::span<const std::byte> head) {
  const auto open = transfer::ParseOpen(head);
  if (!open.ok()) return;
  transfer::KvDescriptor descriptor;
  descriptor.geometry = {3, 11, 16, kvplane::tensor::DType::kBf16};
  descriptor.tokens = open->tokens;
  const auto grid = transfer::TileGrid::Create(descriptor, open->group_heads);
  if (grid.ok()) {
    const auto last = grid->At(2, grid->tiles_per_layer() - 1);
    KVPLANE_CHECK(grid->Find(2, last.side, last.group, last.first_token).has_value());
  }
  std::vector<codec::Strategy> strategies;
  bool needed = false;
  for (const auto& [key, value] : open->strategies) {
    const auto k = codec::SideStrategy::ParseCanonical(key, kvplane::tensor::Side::kKey);
    const auto v = codec::SideStrategy::ParseCanonical(value, kvplane::tensor::Side::kValue);
    if (!k.ok() || !v.ok()) return;
    KVPLANE_CHECK(k->ToString() == key && v->ToString() == value);
    strategies.emplace_back(*k, *v);
    needed = needed || strategies.back().needs_profile();
  }
  // With no profile loaded, what needs one must not pass, nor may an id that nothing takes.
  const auto profile = transfer::ProfileOf(*open, strategies, descriptor, {});
  KVPLANE_CHECK(!profile.ok() || (*profile == nullptr && !needed && open->profile.none()));
}

void ParseHead(uint8_t type, std::span<const std::byte> head) {
  using transfer::FrameType;
  switch (static_cast<FrameType>(type)) {
    case FrameType::kHello:
      return RoundTrip<transfer::HelloFrame>(head, transfer::ParseHello);
    case FrameType::kPull:
      return RoundTrip<transfer::PullFrame>(head, transfer::ParsePull);
    case FrameType::kOpen:
      TakeOver(head);
      return RoundTrip<transfer::OpenFrame>(head, transfer::ParseOpen);
    case FrameType::kTile:
      return RoundTrip<transfer::TileFrame>(head, transfer::ParseTile);
    case FrameType::kFirstToken:
      return RoundTrip<transfer::FirstTokenFrame>(head, transfer::ParseFirstToken);
    case FrameType::kCredit:
      return RoundTrip<transfer::CreditFrame>(head, transfer::ParseCredit);
    case FrameType::kDone:
      return RoundTrip<transfer::DoneFrame>(head, transfer::ParseDone);
    case FrameType::kAck:
      return RoundTrip<transfer::AckFrame>(head, transfer::ParseAck);
    case FrameType::kNack:
      return RoundTrip<transfer::NackFrame>(head, transfer::ParseNack);
    case FrameType::kAbort:
      return RoundTrip<transfer::AbortFrame>(head, transfer::ParseAbort);
    case FrameType::kPing:
      return RoundTrip<transfer::PingFrame>(head, transfer::ParsePing);
    case FrameType::kPong:
      return RoundTrip<transfer::PongFrame>(head, transfer::ParsePong);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span<const std::byte> rest = std::as_bytes(std::span(data, size)).subspan(1);
  if (data[0] != 0) {
    ParseHead(static_cast<uint8_t>(1 + data[0] % 12), rest);
    return 0;
  }
  MemoryStream stream(rest);
  transfer::FrameReader reader(stream);
  while (reader.Next(base::kNoDeadline).ok()) {
    ParseHead(reader.header().type, reader.head());
    if (!reader.SkipBody().ok()) break;
  }
  return 0;
}
