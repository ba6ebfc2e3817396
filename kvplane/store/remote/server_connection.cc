// ServerConnection: what both sides use, and the reader's side.
#include "kvplane/store/remote/server_connection.h"

#include <algorithm>
#include <new>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/store/call_checks.h"
#include "kvplane/transport/endpoint.h"

namespace kvplane::store {
namespace {

// Keys of requests not yet worked on; a connection that has more waits to be read.
constexpr size_t kMaxQueuedBytes = 16 << 20;

// What a PUT may cost before its object is let in: whether the store has it already.
constexpr base::Duration kHasAlreadyTime = std::chrono::milliseconds(20);

base::TimePoint Now() { return base::Clock::System().Now(); }

// For the last words to a client that may not even listen.
constexpr base::Duration kFarewellTime = std::chrono::milliseconds(100);

constexpr uint64_t kAddressParts = 4;     // of all room: what the connections of one address may take
constexpr uint64_t kConnectionParts = 8;  // and one connection

bool AtFault(const base::Status& status) {
  return status.code() == base::StatusCode::kCorrupt || status.code() == base::StatusCode::kUnimplemented;
}

}  // namespace

PutBudget::Shares ServerShared::SharesOf(const StoreServerOptions& options) {
  const uint64_t total = options.total_put_bytes;
  const auto share = [total](uint64_t bytes, uint64_t parts) {
    return bytes != 0 ? bytes : std::max<uint64_t>(total / parts, 1);
  };
  return {.total = total,
          .of_address = share(options.address_put_bytes, kAddressParts),
          .of_connection = share(options.connection_put_bytes, kConnectionParts)};
}

ServerConnection::ServerConnection(ServerShared& shared, std::unique_ptr<transport::Stream> stream,
                                   uint64_t number)
    : shared_(shared),
      stream_(std::move(stream)),
      number_(number),
      address_(transport::HostOfPeer(stream_->peer())),
      reader_(kStoreProtocol, *stream_, shared.options.frame_timeout) {}

void ServerConnection::Read() {
  while (ReadOne()) {
  }
}

bool ServerConnection::ReadOne() {
  if (!greeted_) {
    greeted_ = true;
    hello_limit_ = Now() + shared_.options.hello_timeout;
    StoreHello hello;
    hello.role = kStoreRoleServer;
    hello.max_requests = shared_.options.max_requests;
    hello.max_object_bytes = std::min(shared_.budget.largest(), kMaxStoredBytes);
    hello.name = shared_.store.name();
    hello.software = "kvplane";
    if (!Send(EncodeStoreFrame(0, hello)).ok()) return false;
  }
  base::Status status = hello_received_ ? reader_.Next(Now() + shared_.options.idle_timeout)
                                        : reader_.Next(hello_limit_, hello_limit_);
  if (status.ok()) {
    shared_.bytes_in += reader_.frame_bytes();
    status = HandleFrame();
  }
  if (!status.ok()) EndRead(status);
  return status.ok();
}

void ServerConnection::EndRead(const base::Status& status) {
  if (AtFault(status)) {
    ++shared_.protocol_errors;
    shared_.refusals.Note(status.Annotate(stream_->peer()));
    (void)Send(EncodeStoreFrame(0, StoreAbort{status}));
  }
  Close();
}

// An error ends the connection.
base::Status ServerConnection::HandleFrame() {
  const auto type = static_cast<StoreFrameType>(reader_.header().type);
  if ((type == StoreFrameType::kHello) == hello_received_) {
    return base::Corrupt("HELLO must be the first frame, and only it");
  }
  const bool body_is_meant =
      type == StoreFrameType::kLookup || type == StoreFrameType::kTouch || type == StoreFrameType::kPutData;
  if (!body_is_meant && reader_.header().body_bytes > 0) KVPLANE_RETURN_IF_ERROR(reader_.SkipBody());
  switch (type) {
    case StoreFrameType::kHello:
      return HandleHello();
    case StoreFrameType::kLookup:
    case StoreFrameType::kTouch:
      return HandleKeys(type);
    case StoreFrameType::kPut:
      return HandlePut();
    case StoreFrameType::kPutData:
      return HandlePutData();
    case StoreFrameType::kCancel:
      HandleCancel(reader_.header().stream);
      return base::Status::Ok();
    case StoreFrameType::kPing: {
      KVPLANE_ASSIGN_OR_RETURN(const StorePing ping, ParseStorePing(reader_.head()));
      return Send(EncodeStoreFrame(0, StorePong{ping.cookie}));
    }
    case StoreFrameType::kPong:
      return base::Status::Ok();
    case StoreFrameType::kAbort: {
      KVPLANE_ASSIGN_OR_RETURN(const StoreAbort abort, ParseStoreAbort(reader_.head()));
      return base::Cancelled("the client ended the connection: {}", abort.status.ToString());
    }
    case StoreFrameType::kStatus:
    case StoreFrameType::kFound:
    case StoreFrameType::kData:
    case StoreFrameType::kGo:
    case StoreFrameType::kCounters:
      return base::Corrupt("a client does not send frames of type {}", reader_.header().type);
    default:
      return HandleRequest(type);
  }
}

base::Status ServerConnection::HandleHello() {
  KVPLANE_ASSIGN_OR_RETURN(const StoreHello hello, ParseStoreHello(reader_.head()));
  if (hello.role != kStoreRoleClient) return base::Corrupt("HELLO role {} is no client's", hello.role);
  if (hello.max_body_bytes < kPieceBytes) {
    return base::Unimplemented("the client takes bodies of {} bytes; at least {} are needed",
                               hello.max_body_bytes, kPieceBytes);
  }
  hello_received_ = true;
  return base::Status::Ok();
}

base::Status ServerConnection::HandleRequest(StoreFrameType type) {
  const std::span<const std::byte> head = reader_.head();
  switch (type) {
    case StoreFrameType::kRead:
      return Enqueue(ParseRead(head));
    case StoreFrameType::kPin:
      return Enqueue(ParsePin(head));
    case StoreFrameType::kErase:
      return Enqueue(ParseErase(head));
    case StoreFrameType::kEraseTenant:
      return Enqueue(ParseEraseTenant(head));
    case StoreFrameType::kQuarantine:
      return Enqueue(ParseQuarantine(head));
    case StoreFrameType::kFlush:
      return Enqueue(ParseFlush(head));
    case StoreFrameType::kStats:
      return Enqueue(ParseStats(head));
    default:
      break;
  }
  if ((reader_.header().flags & transport::kFlagSkippable) != 0) return base::Status::Ok();
  return base::Unimplemented("frame type {} is unknown and must not be skipped", reader_.header().type);
}

template <typename Frame>
base::Status ServerConnection::Enqueue(base::Result<Frame> frame) {
  if (!frame.ok()) return frame.status();
  const uint32_t stream = reader_.header().stream;
  KVPLANE_ASSIGN_OR_RETURN(const bool opened, Open(stream));
  if (opened) {
    Push({.stream = stream,
          .deadline = DeadlineOf(Now(), frame->remaining_ms),
          .queued_bytes = 0,
          .work = *std::move(frame)});
  }
  return base::Status::Ok();
}

base::Result<bool> ServerConnection::Open(uint32_t stream) {
  base::Status refusal;
  {
    base::MutexLock lock(mutex_);
    if (stream == 0 || open_.contains(stream)) {
      return base::Corrupt("a request on stream {}, which is not free", stream);
    }
    if (draining_) {
      refusal = base::Unavailable("the store is stopping");
    } else if (open_.size() >= shared_.options.max_requests) {
      refusal = base::ResourceExhausted("{} requests of this connection are unanswered", open_.size());
    } else {
      open_.insert(stream);
    }
  }
  ++shared_.requests;
  if (refusal.ok()) return true;
  Answer(stream, refusal);
  return false;
}

void ServerConnection::Push(Request request) {
  base::MutexLock lock(mutex_);
  PushLocked(std::move(request));
}

void ServerConnection::PushLocked(Request request) {
  queued_bytes_ += request.queued_bytes;
  queue_.push_back(std::move(request));
  wake_worker_.NotifyOne();
}

base::Status ServerConnection::HandleKeys(StoreFrameType type) {
  const bool lookup = type == StoreFrameType::kLookup;
  LookupFrame frame;
  if (lookup) {
    KVPLANE_ASSIGN_OR_RETURN(frame, ParseLookup(reader_.head()));
  } else {
    KVPLANE_ASSIGN_OR_RETURN(const TouchFrame touch, ParseTouch(reader_.head()));
    frame.remaining_ms = touch.remaining_ms;
    frame.count = touch.count;
    frame.body_crc = touch.body_crc;
  }
  const size_t bytes = reader_.header().body_bytes;
  {
    // The worker never waits for the reader, so this ends.
    base::MutexLock lock(mutex_);
    while (!closed_ && queued_bytes_ > 0 && queued_bytes_ + bytes > kMaxQueuedBytes)
      wake_reader_.Wait(mutex_);
    if (closed_) return base::Cancelled("connection closed");
  }
  const uint32_t stream = reader_.header().stream;
  const base::TimePoint deadline = DeadlineOf(Now(), frame.remaining_ms);
  std::vector<std::byte> body(bytes);
  KVPLANE_RETURN_IF_ERROR(reader_.ReadBody(body));
  KVPLANE_ASSIGN_OR_RETURN(const bool opened, Open(stream));
  if (!opened) return base::Status::Ok();
  if (kernel::Crc32c(body) != frame.body_crc) {
    Answer(stream, base::Unavailable("the keys were damaged on the way"));
    return base::Status::Ok();
  }
  KVPLANE_ASSIGN_OR_RETURN(std::vector<StoreKey> keys, DecodeKeys(frame.count, body));
  Request request{.stream = stream, .deadline = deadline, .queued_bytes = bytes, .work = {}};
  if (lookup) {
    request.work = LookupWork{frame.min_quality, std::move(keys)};
  } else {
    request.work = TouchWork{std::move(keys)};
  }
  Push(std::move(request));
  return base::Status::Ok();
}

base::Status ServerConnection::CheckPutFrame(const PutFrame& frame) const {
  KVPLANE_RETURN_IF_ERROR(CheckPut(frame.meta, frame.bytes));
  if (frame.bytes > shared_.budget.largest()) {
    return base::ResourceExhausted("an object of {} bytes; this server takes {} at most", frame.bytes,
                                   shared_.budget.largest());
  }
  if (shared_.options.admit) return shared_.options.admit(frame.key, frame.bytes);
  return base::Status::Ok();
}

// Whether the object need not come at all. What was found in memory may still have to be made durable.
bool ServerConnection::HasAlready(const PutFrame& frame, base::TimePoint deadline) {
  if (frame.options.durable) return false;
  const auto found = shared_.store.Lookup(std::span(&frame.key, 1), frame.meta.quality,
                                          std::min(deadline, Now() + kHasAlreadyTime));
  return found.ok() && found->size() == 1;
}

base::Status ServerConnection::HandlePut() {
  KVPLANE_ASSIGN_OR_RETURN(PutFrame frame, ParsePut(reader_.head()));
  const uint32_t stream = reader_.header().stream;
  KVPLANE_ASSIGN_OR_RETURN(const bool opened, Open(stream));
  if (!opened) return base::Status::Ok();
  const base::TimePoint deadline = DeadlineOf(Now(), frame.remaining_ms);
  if (const base::Status refusal = CheckPutFrame(frame); !refusal.ok()) {
    Answer(stream, refusal);
    return base::Status::Ok();
  }
  if (HasAlready(frame, deadline)) {
    Answer(stream, base::Status::Ok());
    return base::Status::Ok();
  }
  auto put = std::make_shared<IncomingPut>();
  put->frame = frame;
  put->stream = stream;
  put->deadline = deadline;
  if (frame.bytes == 0) {
    Push({.stream = stream, .deadline = deadline, .queued_bytes = 0, .work = PutWork{std::move(put)}});
    return base::Status::Ok();
  }
  put->ticket = std::make_shared<PutBudget::Ticket>();
  put->ticket->receiver = weak_from_this();
  put->ticket->address = address_;
  put->ticket->connection = number_;
  put->ticket->stream = stream;
  put->ticket->bytes = frame.bytes;
  {
    base::MutexLock lock(mutex_);
    if (closed_) return base::Cancelled("connection closed");
    puts_.emplace(stream, put);
    wake_worker_.NotifyOne();  // its deadline may be the next
  }
  if (shared_.budget.Acquire(put->ticket)) BeginPut(put);
  return base::Status::Ok();
}

void ServerConnection::BeginPut(const std::shared_ptr<IncomingPut>& put) {
  // Not initialised: a client that only announces bytes makes no page of it real.
  std::shared_ptr<std::byte[]> bytes(new (std::nothrow) std::byte[put->frame.bytes]);
  if (bytes == nullptr) {
    if (DropPut(put))
      Answer(put->stream, base::ResourceExhausted("no memory for {} bytes", put->frame.bytes));
    return;
  }
  {
    base::MutexLock lock(mutex_);
    const auto found = puts_.find(put->stream);
    // It has just run out of time or been cancelled; or it has begun: its bytes may be being written.
    if (found == puts_.end() || found->second != put || put->go_sent) return;
    const base::TimePoint latest = Now() + shared_.options.put_timeout;
    if (AwaitedPutBytesLocked() == 0) put_due_ = latest;
    put->bytes = std::move(bytes);
    put->next_piece = latest;
    put->go_sent = true;
    wake_worker_.NotifyOne();
  }
  (void)Send(EncodeStoreFrame(put->stream, GoFrame{put->frame.bytes}));
}

uint64_t ServerConnection::AwaitedPutBytesLocked() const {
  uint64_t bytes = 0;
  for (const auto& [stream, put] : puts_) {
    if (put->go_sent) bytes += put->frame.bytes - put->received;
  }
  return bytes;
}

void ServerConnection::CheckPuts(base::TimePoint now) {
  // The worker answers for them; it may be busy with a client that takes its answers slowly.
  for (const std::shared_ptr<IncomingPut>& put : TakeLatePuts(now)) {
    Push({.stream = put->stream,
          .deadline = base::kNoDeadline,
          .queued_bytes = 0,
          .work = RefusalWork{WhyLate()}});
  }
  uint64_t awaited = 0;
  {
    base::MutexLock lock(mutex_);
    if (closed_ || now < put_due_) return;
    awaited = AwaitedPutBytesLocked();
  }
  if (awaited > 0) EndSlow(awaited);
}

void ServerConnection::EndSlow(uint64_t awaited) {
  ++shared_.slow_puts;
  const base::Status why =
      base::DeadlineExceeded("{} bytes of objects are awaited and come slower than {} bytes/s", awaited,
                             shared_.options.min_put_rate);
  shared_.refusals.Note(why.Annotate(stream_->peer()));
  const base::TimePoint limit = Now() + kFarewellTime;
  bool free = false;
  {
    base::MutexLock lock(mutex_);
    while (writing_ && !closed_ && wake_writer_.WaitUntil(mutex_, limit)) {
    }
    free = !writing_ && !closed_;
    if (free) writing_ = true;
  }
  if (free) {
    const std::vector<std::byte> abort = EncodeStoreFrame(0, StoreAbort{why});
    const std::span<const std::byte> bytes(abort);
    (void)stream_->Write({&bytes, 1}, limit);
    base::MutexLock lock(mutex_);
    writing_ = false;
    wake_writer_.NotifyOne();
  }
  Close();
}

void ServerConnection::OnPutGranted(const std::shared_ptr<PutBudget::Ticket>& ticket) {
  base::MutexLock lock(mutex_);
  // Ahead of everything: the client waits, and nothing else can use these bytes.
  queue_.push_front(
      {.stream = ticket->stream, .deadline = base::kNoDeadline, .queued_bytes = 0, .work = GoWork{ticket}});
  wake_worker_.NotifyOne();
}

std::shared_ptr<ServerConnection::IncomingPut> ServerConnection::FindPut(uint32_t stream) {
  base::MutexLock lock(mutex_);
  const auto found = puts_.find(stream);
  return found == puts_.end() ? nullptr : found->second;
}

bool ServerConnection::DropPut(const std::shared_ptr<IncomingPut>& put) {
  {
    base::MutexLock lock(mutex_);
    const auto found = puts_.find(put->stream);
    if (found == puts_.end() || found->second != put) return false;
    puts_.erase(found);
  }
  shared_.budget.Release(put->ticket);
  return true;
}

base::Status ServerConnection::HandlePutData() {
  KVPLANE_ASSIGN_OR_RETURN(const PutDataFrame frame, ParsePutData(reader_.head()));
  const uint32_t body_bytes = reader_.header().body_bytes;
  const std::shared_ptr<IncomingPut> put = FindPut(reader_.header().stream);
  if (put == nullptr) return reader_.SkipBody();  // refused or given up just now
  std::byte* into = nullptr;
  {
    base::MutexLock lock(mutex_);
    if (!put->go_sent) return base::Corrupt("PUT_DATA before GO");
    if (body_bytes == 0 || frame.at != put->received || body_bytes > put->frame.bytes - put->received) {
      return base::Corrupt("PUT_DATA of {} bytes at {} of {}, expected at {}", body_bytes, frame.at,
                           put->frame.bytes, put->received);
    }
    into = put->bytes.get() + put->received;
  }
  const std::span<std::byte> piece(into, body_bytes);  // `put` keeps it alive
  KVPLANE_RETURN_IF_ERROR(reader_.ReadBody(piece));
  if (kernel::Crc32c(piece) != frame.body_crc) {
    if (DropPut(put))
      Answer(put->stream, base::Unavailable("byte {} and on were damaged on the way", frame.at));
    return base::Status::Ok();
  }
  base::MutexLock lock(mutex_);
  put->received += body_bytes;
  const base::TimePoint latest = Now() + shared_.options.put_timeout;
  put->next_piece = latest;
  const double earned = static_cast<double>(body_bytes) / static_cast<double>(shared_.options.min_put_rate);
  put_due_ = std::min(latest, put_due_ + base::FromSeconds(earned));
  // From the table to the queue in one step: Close() looks for room to give back in these two.
  if (put->received == put->frame.bytes && puts_.erase(put->stream) > 0) {
    PushLocked({.stream = put->stream, .deadline = put->deadline, .queued_bytes = 0, .work = PutWork{put}});
  }
  return base::Status::Ok();
}

void ServerConnection::HandleCancel(uint32_t stream) {
  if (const std::shared_ptr<IncomingPut> put = FindPut(stream); put != nullptr) {
    if (DropPut(put)) Finish(stream, /*failed=*/false);
    return;
  }
  std::shared_ptr<PutBudget::Ticket> ticket;
  bool queued = false;
  {
    base::MutexLock lock(mutex_);
    const auto found = std::find_if(queue_.begin(), queue_.end(), [stream](const Request& request) {
      return request.stream == stream && !std::holds_alternative<GoWork>(request.work);
    });
    if (found != queue_.end()) {
      queued = true;
      if (const auto* work = std::get_if<PutWork>(&found->work)) ticket = work->put->ticket;
      queued_bytes_ -= found->queued_bytes;
      queue_.erase(found);
      wake_reader_.NotifyOne();
    } else if (open_.contains(stream)) {
      cancelled_.insert(stream);
    }
  }
  if (ticket != nullptr) shared_.budget.Release(ticket);
  if (queued) Finish(stream, /*failed=*/false);
}

void ServerConnection::Drain() {
  bool idle = false;
  {
    base::MutexLock lock(mutex_);
    draining_ = true;
    idle = open_.empty();
  }
  if (idle) Close();
}

void ServerConnection::Close() {
  std::unordered_map<uint32_t, std::shared_ptr<IncomingPut>> puts;
  std::deque<Request> queue;
  {
    base::MutexLock lock(mutex_);
    if (closed_) return;
    closed_ = true;
    puts.swap(puts_);
    queue.swap(queue_);
    wake_worker_.NotifyAll();
    wake_reader_.NotifyAll();
    wake_writer_.NotifyAll();
  }
  stream_->Shutdown();
  // Without the lock: other connections may be granted what is given back here.
  for (const auto& [stream, put] : puts) shared_.budget.Release(put->ticket);
  for (const Request& request : queue) {
    const auto* work = std::get_if<PutWork>(&request.work);
    if (work != nullptr && work->put->ticket != nullptr) shared_.budget.Release(work->put->ticket);
  }
}

void ServerConnection::Answer(uint32_t stream, const base::Status& status, uint64_t value) {
  (void)Send(EncodeStoreFrame(stream, StatusFrame{status, value}));
  Finish(stream, !status.ok() && status.code() != base::StatusCode::kNotFound);
}

void ServerConnection::Finish(uint32_t stream, bool failed) {
  if (failed) ++shared_.requests_failed;
  bool last = false;
  {
    base::MutexLock lock(mutex_);
    open_.erase(stream);
    cancelled_.erase(stream);
    last = draining_ && open_.empty();
  }
  if (last) Close();
}

base::Status ServerConnection::Send(std::span<const std::byte> frame, std::span<const std::byte> body) {
  {
    base::MutexLock lock(mutex_);
    // Whoever writes has a deadline, so this ends.
    while (writing_ && !closed_) wake_writer_.Wait(mutex_);
    if (closed_) return base::Cancelled("connection closed");
    writing_ = true;
  }
  const std::span<const std::byte> pieces[] = {frame, body};
  const base::Status status = stream_->Write(pieces, Now() + shared_.options.write_timeout);
  {
    base::MutexLock lock(mutex_);
    writing_ = false;
    wake_writer_.NotifyOne();
  }
  if (status.ok()) {
    shared_.bytes_out += frame.size() + body.size();
  } else {
    Close();
  }
  return status;
}

bool ServerConnection::Cancelled(uint32_t stream) const {
  base::MutexLock lock(mutex_);
  return closed_ || cancelled_.contains(stream);
}

}  // namespace kvplane::store
