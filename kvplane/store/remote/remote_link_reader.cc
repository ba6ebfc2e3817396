// RemoteLink: connecting, and the frames that the server sends.
#include <algorithm>
#include <new>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/store/remote/remote_link.h"

namespace kvplane::store {
namespace {

// Above the keep-alive interval, at which the server must answer.
constexpr int kSilentKeepalives = 2;

// Frames waiting to be written when a server's PINGs are no longer answered but end the connection.
constexpr size_t kMaxOutgoing = 65'536;

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

void RemoteLink::ReadLoop() {
  while (true) {
    {
      base::MutexLock lock(mutex_);
      while (!stopped_ && phase_ != Phase::kConnecting) phase_changed_.Wait(mutex_);
      if (stopped_) break;
    }
    const base::Status status = Serve();
    base::Log(base::LogLevel::kDebug, "{}: {}", options_.endpoint, status.ToString());
    Close(status);
  }
  Close(base::Cancelled("the store was shut down"));
}

// One connection from its beginning to its end.
base::Status RemoteLink::Serve() {
  const base::TimePoint deadline = Now() + options_.connect_timeout;
  base::Result<std::unique_ptr<transport::Stream>> connected =
      transport_.Connect(options_.endpoint, deadline);
  if (!connected.ok()) return connected.status();
  const std::shared_ptr<transport::Stream> stream = *std::move(connected);
  {
    base::MutexLock lock(mutex_);
    if (stopped_) return base::Cancelled("the store was shut down");
    stream_ = stream;  // so that Shutdown() finds it
    broken_ = base::Status::Ok();
  }
  transport::FrameReader reader(kStoreProtocol, *stream);
  const base::Result<StoreHello> server = Greet(*stream, reader, deadline);
  if (!server.ok()) return base::Unavailable("{}: {}", options_.endpoint, server.status().ToString());
  {
    base::MutexLock lock(mutex_);
    if (stopped_) return base::Cancelled("the store was shut down");
    phase_ = Phase::kReady;
    // Half of what it keeps: it may still be busy with calls that were given up here.
    max_calls_ = std::max<size_t>(server->max_requests / 2, 1);
    last_heard_ = last_write_ = Now();
    health_.Greeted();
    phase_changed_.NotifyAll();
    wake_writer_.NotifyAll();
  }
  base::Status status = base::Status::Ok();
  while (status.ok()) {
    status = reader.Next(Now() + kSilentKeepalives * options_.keepalive);
    if (status.ok()) status = HandleFrame(reader);
  }
  stream->Shutdown();
  base::MutexLock lock(mutex_);
  if (!broken_.ok()) return broken_;
  // Nobody cancelled anything: the stream was shut down because writing failed.
  if (status.code() == base::StatusCode::kCancelled) {
    return base::Unavailable("{}: the connection broke", options_.endpoint);
  }
  // Whatever was wrong, it was the connection, not an object: kCorrupt would say that of an entry.
  return base::Unavailable("{}: {}", options_.endpoint, status.ToString());
}

base::Result<StoreHello> RemoteLink::Greet(transport::Stream& stream, transport::FrameReader& reader,
                                           base::TimePoint deadline) {
  StoreHello hello;
  hello.role = kStoreRoleClient;
  hello.software = "kvplane";
  const std::vector<std::byte> frame = EncodeStoreFrame(0, hello);
  const std::span<const std::byte> piece(frame);
  KVPLANE_RETURN_IF_ERROR(stream.Write(std::span(&piece, 1), deadline));
  KVPLANE_RETURN_IF_ERROR(reader.Next(deadline, deadline));
  if (reader.header().body_bytes > 0) KVPLANE_RETURN_IF_ERROR(reader.SkipBody());
  const auto type = static_cast<StoreFrameType>(reader.header().type);
  if (type == StoreFrameType::kAbort) {
    KVPLANE_ASSIGN_OR_RETURN(const StoreAbort abort, ParseStoreAbort(reader.head()));
    return base::Unavailable("refused: {}", abort.status.ToString());
  }
  if (type != StoreFrameType::kHello) return base::Corrupt("the server did not say HELLO");
  KVPLANE_ASSIGN_OR_RETURN(StoreHello server, ParseStoreHello(reader.head()));
  if (server.role != kStoreRoleServer) return base::Corrupt("HELLO role {} is no server's", server.role);
  if (server.max_body_bytes < kMaxKeysPerCall * kWireKeyBytes) {
    return base::Unimplemented("the server takes bodies of {} bytes only", server.max_body_bytes);
  }
  return server;
}

// An error ends the connection.
base::Status RemoteLink::HandleFrame(transport::FrameReader& reader) {
  Heard();
  const auto type = static_cast<StoreFrameType>(reader.header().type);
  switch (type) {
    case StoreFrameType::kStatus:
    case StoreFrameType::kFound:
    case StoreFrameType::kData:
    case StoreFrameType::kGo:
    case StoreFrameType::kCounters:
      return HandleReply(reader, type);
    default:
      break;
  }
  if (reader.header().body_bytes > 0) KVPLANE_RETURN_IF_ERROR(reader.SkipBody());
  switch (type) {
    case StoreFrameType::kPong:
      return base::Status::Ok();
    case StoreFrameType::kPing: {
      KVPLANE_ASSIGN_OR_RETURN(const StorePing ping, ParseStorePing(reader.head()));
      return Pong(ping.cookie);
    }
    case StoreFrameType::kAbort: {
      KVPLANE_ASSIGN_OR_RETURN(const StoreAbort abort, ParseStoreAbort(reader.head()));
      return base::Unavailable("the server ended the connection: {}", abort.status.ToString());
    }
    default:
      break;
  }
  if (reader.header().type <= static_cast<uint8_t>(StoreFrameType::kAbort)) {
    return base::Corrupt("a server does not send frames of type {} here", reader.header().type);
  }
  if ((reader.header().flags & transport::kFlagSkippable) != 0) return base::Status::Ok();
  return base::Unimplemented("frame type {} is unknown and must not be skipped", reader.header().type);
}

base::Status RemoteLink::Pong(uint64_t cookie) {
  base::MutexLock lock(mutex_);
  // A server asks now and then; one that floods is not a server.
  if (outgoing_.size() >= kMaxOutgoing) return base::ResourceExhausted("{} frames unsent", outgoing_.size());
  outgoing_.push_back({0, EncodeStoreFrame(0, StorePong{cookie}), {}});
  wake_writer_.NotifyOne();
  return base::Status::Ok();
}

base::Status RemoteLink::HandleReply(transport::FrameReader& reader, StoreFrameType type) {
  const std::shared_ptr<RemoteCall> call = Find(reader.header().stream);
  if (call == nullptr) return reader.SkipBody();  // given up just now
  if (type == StoreFrameType::kFound) return HandleFound(reader, call);
  if (type == StoreFrameType::kData) return HandleData(reader, call);
  if (reader.header().body_bytes > 0) KVPLANE_RETURN_IF_ERROR(reader.SkipBody());
  if (type == StoreFrameType::kGo) {
    KVPLANE_ASSIGN_OR_RETURN(const GoFrame go, ParseGo(reader.head()));
    if (call->type != StoreFrameType::kPut) return base::Corrupt("GO for something that is no PUT");
    base::MutexLock lock(mutex_);
    call->go_limit = std::max(call->go_limit, go.limit);
    call->changed.NotifyAll();
    return base::Status::Ok();
  }
  if (type == StoreFrameType::kCounters) {
    KVPLANE_ASSIGN_OR_RETURN(CountersFrame counters, ParseCounters(reader.head()));
    if (call->type != StoreFrameType::kStats) return base::Corrupt("COUNTERS that nobody asked for");
    base::MutexLock lock(mutex_);
    call->tiers = std::move(counters.tiers);
    FinishLocked(*call, base::Status::Ok());
    return base::Status::Ok();
  }
  KVPLANE_ASSIGN_OR_RETURN(StatusFrame status, ParseStatus(reader.head()));
  const bool answered_otherwise = call->type == StoreFrameType::kLookup ||
                                  call->type == StoreFrameType::kRead || call->type == StoreFrameType::kStats;
  if (status.status.ok() && answered_otherwise) return base::Corrupt("success without an answer");
  base::MutexLock lock(mutex_);
  call->value = status.value;
  FinishLocked(*call, std::move(status.status));
  return base::Status::Ok();
}

base::Status RemoteLink::HandleFound(transport::FrameReader& reader,
                                     const std::shared_ptr<RemoteCall>& call) {
  KVPLANE_ASSIGN_OR_RETURN(const FoundFrame frame, ParseFound(reader.head()));
  if (call->type != StoreFrameType::kLookup) return base::Corrupt("FOUND for something that is no LOOKUP");
  if (frame.count > call->expected_keys) {
    return base::Corrupt("FOUND names {} entries of {} keys", frame.count, call->expected_keys);
  }
  std::vector<std::byte> body(reader.header().body_bytes);
  KVPLANE_RETURN_IF_ERROR(reader.ReadBody(body));
  if (kernel::Crc32c(body) != frame.body_crc) {
    Finish(call, base::Unavailable("the answer was damaged on the way"));
    return base::Status::Ok();
  }
  KVPLANE_ASSIGN_OR_RETURN(std::vector<EntryInfo> entries, DecodeEntries(frame.count, body));
  base::MutexLock lock(mutex_);
  call->found = std::move(entries);
  FinishLocked(*call, base::Status::Ok());
  return base::Status::Ok();
}

// The bytes of a READ go to their place at once. They belong to this thread until the call is finished; a
// caller who gives up leaves them to it.
base::Status RemoteLink::HandleData(transport::FrameReader& reader, const std::shared_ptr<RemoteCall>& call) {
  KVPLANE_ASSIGN_OR_RETURN(const DataFrame frame, ParseData(reader.head()));
  const uint64_t body_bytes = reader.header().body_bytes;
  if (call->type != StoreFrameType::kRead) return base::Corrupt("DATA for something that is no READ");
  if (!call->data_begun) {
    if (frame.total > kMaxStoredBytes || (call->expected_bytes > 0 && frame.total != call->expected_bytes)) {
      return base::Corrupt("DATA of {} bytes for a READ of {}", frame.total, call->expected_bytes);
    }
    // Not initialised: a server that only announces bytes makes no page of it real.
    call->bytes.reset(new (std::nothrow) std::byte[frame.total]);
    if (call->bytes == nullptr) {
      Finish(call, base::ResourceExhausted("no memory for {} bytes", frame.total));
      return reader.SkipBody();
    }
    call->total = frame.total;
    call->data_begun = true;
  }
  const bool empty = frame.total == 0 && body_bytes == 0;
  if (frame.total != call->total || frame.at != call->received || body_bytes > call->total - call->received ||
      (body_bytes == 0 && !empty)) {
    return base::Corrupt("DATA of {} bytes at {} of {}, expected at {} of {}", body_bytes, frame.at,
                         frame.total, call->received, call->total);
  }
  const std::span<std::byte> piece(call->bytes.get() + call->received, body_bytes);
  KVPLANE_RETURN_IF_ERROR(reader.ReadBody(piece));
  if (kernel::Crc32c(piece) != frame.body_crc) {
    base::MutexLock lock(mutex_);
    CancelLocked(*call);
    FinishLocked(*call, base::Unavailable("byte {} and on were damaged on the way", frame.at));
    return base::Status::Ok();
  }
  call->received += body_bytes;
  if (call->received == call->total) Finish(call, base::Status::Ok());
  return base::Status::Ok();
}

}  // namespace kvplane::store
