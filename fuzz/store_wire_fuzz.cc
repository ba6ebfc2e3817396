// The store protocol against arbitrary bytes.
//
// First byte modulo 5: 0: the rest is what a client sends, and a server's connection takes it in turns with
// its worker, over a small memory store. 1: the rest is what a server sends to a client that waits for a
// look-up, a read, a put and its counters. 2: the second byte chooses a frame type and the rest is its head;
// a head that parses must survive being written and parsed again. 3 and 4: as 0 and 1, but the rest is a list
// of frames to be sealed (Sealed), so that the fuzzer need not find CRCs.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/log.h"
#include "kvplane/base/mutex.h"
#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/store/dram_store.h"
#include "kvplane/store/remote/remote_link.h"
#include "kvplane/store/remote/server_connection.h"
#include "kvplane/store/remote/store_frames.h"

namespace {

namespace base = kvplane::base;
namespace store = kvplane::store;
namespace transport = kvplane::transport;

using Bytes = std::span<const std::byte>;

// Opened when what must come first has happened.
class Gate {
 public:
  void Open() {
    base::MutexLock lock(mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  void Await() {
    base::MutexLock lock(mutex_);
    while (!open_) changed_.Wait(mutex_);
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  bool open_ KVPLANE_GUARDED_BY(mutex_) = false;
};

// A stream that holds what the fuzzer gave and then ends. The gate holds up what is behind the first
// `ungated` bytes.
class MemoryStream final : public transport::Stream {
 public:
  explicit MemoryStream(Bytes bytes, Gate* gate = nullptr, size_t ungated = 0)
      : bytes_(bytes), gate_(gate), gated_bytes_(bytes.size() - ungated) {}
  base::Status Write(std::span<const std::span<const std::byte>>, base::TimePoint) override {
    return base::Status::Ok();
  }
  base::Status Read(std::span<std::byte> into, base::TimePoint) override {
    if (gate_ != nullptr && bytes_.size() <= gated_bytes_) gate_->Await();
    if (into.size() > bytes_.size()) return base::Unavailable("end of input");
    if (!into.empty()) std::memcpy(into.data(), bytes_.data(), into.size());
    bytes_ = bytes_.subspan(into.size());
    return base::Status::Ok();
  }
  void Shutdown() override {}
  std::string peer() const override { return "fuzzer"; }

 private:
  Bytes bytes_;
  Gate* const gate_;
  const size_t gated_bytes_;
};

class MemoryTransport final : public transport::Transport {
 public:
  MemoryTransport(Bytes bytes, Gate& gate, size_t ungated) : bytes_(bytes), gate_(gate), ungated_(ungated) {}
  std::string_view name() const override { return "memory"; }
  transport::Capabilities capabilities() const override { return {}; }
  base::Result<std::unique_ptr<transport::Listener>> Listen(std::string_view) override {
    return base::Unimplemented("one way only");
  }
  base::Result<std::unique_ptr<transport::Stream>> Connect(std::string_view, base::TimePoint) override {
    return std::unique_ptr<transport::Stream>(std::make_unique<MemoryStream>(bytes_, &gate_, ungated_));
  }

 private:
  const Bytes bytes_;
  Gate& gate_;
  const size_t ungated_;
};

std::vector<std::byte> Greeting(uint8_t role, Bytes rest) {
  store::StoreHello hello;
  hello.role = role;
  hello.max_requests = 64;
  std::vector<std::byte> bytes = store::EncodeStoreFrame(0, hello);
  bytes.insert(bytes.end(), rest.begin(), rest.end());
  return bytes;
}

// Where the CRC of the body lies in a head; none: 0 would be it.
size_t BodyCrcAt(uint8_t type) {
  switch (static_cast<store::StoreFrameType>(type)) {
    case store::StoreFrameType::kLookup:
      return 10;
    case store::StoreFrameType::kTouch:
    case store::StoreFrameType::kPutData:
      return 8;
    case store::StoreFrameType::kFound:
      return 4;
    case store::StoreFrameType::kData:
      return 16;
    default:
      return 0;
  }
}

// Frames from items of: type, stream (its top bit: leave the body's CRC as it is), length of the head, two
// bytes of the length of the body, head, body.
std::vector<std::byte> Sealed(Bytes input) {
  std::vector<std::byte> out;
  while (input.size() >= 5) {
    const auto type = static_cast<uint8_t>(input[0]);
    const auto stream = static_cast<uint8_t>(input[1]);
    const size_t head_bytes = std::min<size_t>(static_cast<size_t>(input[2]), input.size() - 5);
    const size_t body_wanted = base::LoadLe<uint16_t>(input.data() + 3);
    input = input.subspan(5);
    std::vector<std::byte> frame(transport::kFrameHeaderBytes);
    frame.insert(frame.end(), input.begin(), input.begin() + static_cast<std::ptrdiff_t>(head_bytes));
    input = input.subspan(head_bytes);
    const Bytes body = input.first(std::min(body_wanted, input.size()));
    input = input.subspan(body.size());
    const size_t crc_at = BodyCrcAt(type);
    if (crc_at > 0 && crc_at + 4 <= head_bytes && (stream & 0x80) == 0) {
      base::StoreLe(frame.data() + transport::kFrameHeaderBytes + crc_at, kvplane::kernel::Crc32c(body));
    }
    transport::SealFrame(store::kStoreProtocol, type, stream & 0x7f, static_cast<uint32_t>(body.size()),
                         frame);
    out.insert(out.end(), frame.begin(), frame.end());
    out.insert(out.end(), body.begin(), body.end());
  }
  return out;
}

void ServeClient(Bytes input) {
  const auto dram = store::DramStore::Create({.capacity_bytes = 1 << 20});
  KVPLANE_CHECK(dram.ok());
  store::StoreServerOptions options;
  options.max_requests = 8;
  options.total_put_bytes = 1 << 16;
  store::ServerShared shared(**dram, options);
  const std::vector<std::byte> bytes = Greeting(store::kStoreRoleClient, input);
  {
    const auto connection =
        std::make_shared<store::ServerConnection>(shared, std::make_unique<MemoryStream>(bytes), 1);
    while (connection->ReadOne()) {
      for (int i = 0; i < 16; ++i) (void)connection->WorkOne(/*wait=*/false);
      connection->CheckPuts(base::Clock::System().Now());
    }
    connection->Close();
  }
  KVPLANE_CHECK(shared.budget.reserved_bytes() == 0);
}

// The calls are made after the server's HELLO and before its first reply.
void AnswerClient(Bytes input) {
  const std::vector<std::byte> bytes = Greeting(store::kStoreRoleServer, input);
  Gate gate;
  MemoryTransport memory(bytes, gate, bytes.size() - input.size());
  store::LinkOptions options;
  options.endpoint = "memory";
  store::PeerHealth health(options, 1);
  store::RemoteLink link(memory, options, health);
  const base::TimePoint never = base::Clock::System().Now() + std::chrono::hours(1);
  KVPLANE_CHECK(link.AwaitReady(never).ok());
  std::vector<std::shared_ptr<store::RemoteCall>> calls;
  for (const auto type :
       {store::StoreFrameType::kLookup, store::StoreFrameType::kRead, store::StoreFrameType::kRead,
        store::StoreFrameType::kPut, store::StoreFrameType::kStats}) {
    auto& call = calls.emplace_back(std::make_shared<store::RemoteCall>());
    call->type = type;
    call->stream = link.NextStream();
    call->expected_keys = 2;
    call->expected_bytes = calls.size() == 2 ? 100 : 0;
    link.Start(call, store::EncodeStoreFrame(call->stream, store::CancelFrame{}), {}, never);
  }
  gate.Open();
  for (const auto& call : calls) {
    // The input ends, and with it the connection and every call.
    const base::Status status = link.Await(call, never);
    if (!status.ok()) continue;
    KVPLANE_CHECK(call->found.size() <= 2);
    if (call->type != store::StoreFrameType::kRead) continue;
    KVPLANE_CHECK(call->received == call->total);
    KVPLANE_CHECK(call->expected_bytes == 0 || call->total == call->expected_bytes);
  }
}

template <typename Frame, typename Parse>
void RoundTrip(Bytes head, Parse parse) {
  const base::Result<Frame> frame = parse(head);
  if (!frame.ok()) return;
  const std::vector<std::byte> again = store::EncodeStoreFrame(1, *frame);
  KVPLANE_CHECK(parse(std::span(again).subspan(transport::kFrameHeaderBytes)).ok());
  KVPLANE_CHECK(transport::ParseFrameHeader(store::kStoreProtocol,
                                            std::span(again).first<transport::kFrameHeaderBytes>())
                    .ok());
}

void ParseHead(uint8_t type, Bytes head) {
  using store::StoreFrameType;
  switch (static_cast<StoreFrameType>(type)) {
    case StoreFrameType::kHello:
      return RoundTrip<store::StoreHello>(head, store::ParseStoreHello);
    case StoreFrameType::kStatus:
      return RoundTrip<store::StatusFrame>(head, store::ParseStatus);
    case StoreFrameType::kLookup:
      return RoundTrip<store::LookupFrame>(head, store::ParseLookup);
    case StoreFrameType::kFound: {
      const auto entries =
          store::DecodeEntries(static_cast<uint32_t>(head.size() / store::kWireEntryBytes), head);
      if (entries.ok()) KVPLANE_CHECK(store::EncodeEntries(*entries).size() == head.size());
      return RoundTrip<store::FoundFrame>(head, store::ParseFound);
    }
    case StoreFrameType::kRead:
      return RoundTrip<store::ReadFrame>(head, store::ParseRead);
    case StoreFrameType::kData:
      return RoundTrip<store::DataFrame>(head, store::ParseData);
    case StoreFrameType::kPut:
      return RoundTrip<store::PutFrame>(head, store::ParsePut);
    case StoreFrameType::kPin:
      return RoundTrip<store::PinFrame>(head, store::ParsePin);
    case StoreFrameType::kCounters:
      return RoundTrip<store::CountersFrame>(head, store::ParseCounters);
    case StoreFrameType::kAbort:
      return RoundTrip<store::StoreAbort>(head, store::ParseStoreAbort);
    default:  // a few numbers each
      RoundTrip<store::TouchFrame>(head, store::ParseTouch);
      RoundTrip<store::PutDataFrame>(head, store::ParsePutData);
      RoundTrip<store::EraseFrame>(head, store::ParseErase);
      RoundTrip<store::EraseTenantFrame>(head, store::ParseEraseTenant);
      return RoundTrip<store::StorePing>(head, store::ParseStorePing);
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  base::LogConfig log;
  log.level = base::LogLevel::kOff;  // every input is a warning
  base::ConfigureLog(log);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const Bytes rest = std::as_bytes(std::span(data, size)).subspan(1);
  switch (data[0] % 5) {
    case 0:
      ServeClient(rest);
      break;
    case 1:
      AnswerClient(rest);
      break;
    case 2:
      ParseHead(data[1], rest.subspan(1));
      break;
    case 3:
      ServeClient(Sealed(rest));
      break;
    default:
      AnswerClient(Sealed(rest));
  }
  return 0;
}
