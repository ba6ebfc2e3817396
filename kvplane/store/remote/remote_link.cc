// RemoteLink: calls, back-off, and the writer.
#include "kvplane/store/remote/remote_link.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "kvplane/base/check.h"

namespace kvplane::store {
namespace {

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

base::Status PeerHealth::Check(bool connected, base::TimePoint now) const {
  base::MutexLock lock(mutex_);
  if (suspect_) return base::Unavailable("{} does not answer", options_.endpoint);
  if (!connected && now < retry_at_) return base::Unavailable("{}; tried again soon", why_);
  return base::Status::Ok();
}

void PeerHealth::Suspect() {
  base::MutexLock lock(mutex_);
  suspect_ = true;
}

void PeerHealth::Alive() {
  base::MutexLock lock(mutex_);
  suspect_ = false;
}

void PeerHealth::Greeted() {
  base::MutexLock lock(mutex_);
  suspect_ = false;
  backoff_ = base::Duration::zero();
  retry_at_ = {};
}

void PeerHealth::Failed(const base::Status& why, base::TimePoint now) {
  base::MutexLock lock(mutex_);
  suspect_ = false;
  backoff_ = std::clamp(2 * backoff_, options_.first_backoff, options_.max_backoff);
  // Between half and all of it: the nodes of a cluster shall not all come back at once.
  retry_at_ = now + std::chrono::duration_cast<base::Duration>(backoff_ * (0.5 + 0.5 * rng_.Uniform()));
  why_ = why.message();
}

RemoteLink::RemoteLink(transport::Transport& transport, const LinkOptions& options, PeerHealth& health)
    : transport_(transport), options_(options), health_(health) {
  reader_ = std::thread([this] { ReadLoop(); });
  writer_ = std::thread([this] { WriteLoop(); });
}

RemoteLink::~RemoteLink() {
  Shutdown();
  reader_.join();
  writer_.join();
}

base::Status RemoteLink::AwaitReady(base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  while (true) {
    if (stopped_) return base::Cancelled("the store was shut down");
    if (const base::Status health = health_.Check(phase_ == Phase::kReady, Now()); !health.ok())
      return health;
    if (phase_ == Phase::kReady) return base::Status::Ok();
    if (phase_ == Phase::kClosed) {
      phase_ = Phase::kConnecting;
      phase_changed_.NotifyAll();
    }
    if (!phase_changed_.WaitUntil(mutex_, deadline) && phase_ != Phase::kReady && !stopped_) {
      // Whether or not the server is there, nobody else shall wait for the same answer.
      if (phase_ == Phase::kConnecting) health_.Suspect();
      return base::DeadlineExceeded("no connection to {} in time", options_.endpoint);
    }
  }
}

uint32_t RemoteLink::NextStream() {
  base::MutexLock lock(mutex_);
  do {
    ++next_stream_;
  } while (next_stream_ == 0 || calls_.contains(next_stream_));
  return next_stream_;
}

void RemoteLink::Start(const std::shared_ptr<RemoteCall>& call, std::vector<std::byte> frame, Slice body,
                       base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  call->started = Now();
  while (!stopped_ && phase_ == Phase::kReady && calls_.size() >= max_calls_) {
    if (!room_.WaitUntil(mutex_, deadline) && calls_.size() >= max_calls_) {
      return FinishLocked(*call, base::DeadlineExceeded("{} is busy with {} requests of this client",
                                                        options_.endpoint, calls_.size()));
    }
  }
  if (stopped_) return FinishLocked(*call, base::Cancelled("the store was shut down"));
  if (phase_ != Phase::kReady) {
    return FinishLocked(*call, base::Unavailable("the connection to {} has just ended", options_.endpoint));
  }
  calls_.emplace(call->stream, call);
  outgoing_.push_back({call->stream, std::move(frame), std::move(body)});
  wake_writer_.NotifyOne();
}

bool RemoteLink::Continue(const RemoteCall& call, std::vector<std::byte> frame, Slice body) {
  base::MutexLock lock(mutex_);
  if (call.finished) return false;
  outgoing_.push_back({call.stream, std::move(frame), std::move(body)});
  wake_writer_.NotifyOne();
  return true;
}

void RemoteLink::AwaitLocked(RemoteCall& call, uint64_t sent, base::TimePoint deadline) {
  while (!call.finished && call.go_limit <= sent) {
    if (call.changed.WaitUntil(mutex_, deadline)) continue;
    if (call.finished || call.go_limit > sent) break;
    if (last_heard_ < call.started) ProbeLocked(Now());
    CancelLocked(call);
    FinishLocked(call, base::DeadlineExceeded("{} did not answer in time", options_.endpoint));
  }
}

base::Status RemoteLink::Await(const std::shared_ptr<RemoteCall>& call, base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  AwaitLocked(*call, std::numeric_limits<uint64_t>::max(), deadline);
  return call->status;
}

base::Result<uint64_t> RemoteLink::AwaitGo(const std::shared_ptr<RemoteCall>& call, uint64_t sent,
                                           base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  AwaitLocked(*call, sent, deadline);
  if (!call->finished) return call->go_limit;
  KVPLANE_RETURN_IF_ERROR(call->status);
  return sent;
}

// Frames not yet written are taken back; a server that knows of the call is told to stop.
void RemoteLink::CancelLocked(const RemoteCall& call) {
  std::erase_if(outgoing_, [&call](const Outgoing& out) { return out.stream == call.stream; });
  if (phase_ != Phase::kReady || !call.sent) return;
  outgoing_.push_back({0, EncodeStoreFrame(call.stream, CancelFrame{}), {}});
  wake_writer_.NotifyOne();
}

void RemoteLink::ProbeLocked(base::TimePoint now) {
  if (probing_ || phase_ != Phase::kReady) return;
  probing_ = true;
  probe_limit_ = now + options_.probe_timeout;
  health_.Suspect();
  outgoing_.push_front({0, EncodeStoreFrame(0, StorePing{}), {}});
  wake_writer_.NotifyOne();
}

void RemoteLink::Heard() {
  base::MutexLock lock(mutex_);
  last_heard_ = Now();
  probing_ = false;
  health_.Alive();
}

std::shared_ptr<RemoteCall> RemoteLink::Find(uint32_t stream) {
  base::MutexLock lock(mutex_);
  const auto found = calls_.find(stream);
  return found == calls_.end() ? nullptr : found->second;
}

void RemoteLink::Finish(const std::shared_ptr<RemoteCall>& call, base::Status status) {
  base::MutexLock lock(mutex_);
  FinishLocked(*call, std::move(status));
}

void RemoteLink::FinishLocked(RemoteCall& call, base::Status status) {
  if (call.finished) return;
  call.finished = true;
  call.status = std::move(status);
  call.changed.NotifyAll();
  calls_.erase(call.stream);
  room_.NotifyOne();
}

size_t RemoteLink::unfinished() const {
  base::MutexLock lock(mutex_);
  return calls_.size();
}

void RemoteLink::Close(const base::Status& why) {
  base::MutexLock lock(mutex_);
  phase_ = Phase::kClosed;
  probing_ = false;
  health_.Failed(why, Now());  // under the lock: whoever waited for this connection must not suspect the next
  stream_.reset();
  outgoing_.clear();
  std::unordered_map<uint32_t, std::shared_ptr<RemoteCall>> calls;
  calls.swap(calls_);
  for (const auto& [stream, call] : calls) {
    FinishLocked(*call, stopped_ ? base::Cancelled("the store was shut down") : why);
  }
  phase_changed_.NotifyAll();
  room_.NotifyAll();
}

void RemoteLink::Shutdown() {
  base::MutexLock lock(mutex_);
  stopped_ = true;
  if (stream_ != nullptr) stream_->Shutdown();
  std::unordered_map<uint32_t, std::shared_ptr<RemoteCall>> calls;
  calls.swap(calls_);
  for (const auto& [stream, call] : calls) FinishLocked(*call, base::Cancelled("the store was shut down"));
  phase_changed_.NotifyAll();
  wake_writer_.NotifyAll();
  room_.NotifyAll();
}

// The reader then closes.
void RemoteLink::BreakLocked(base::Status why) {
  broken_ = std::move(why);
  stream_->Shutdown();
}

// Also the link's timekeeper: a silent server is given up here, a quiet connection is kept alive.
bool RemoteLink::AwaitOutgoing(Outgoing& out, std::shared_ptr<transport::Stream>& stream) {
  base::MutexLock lock(mutex_);
  while (!stopped_) {
    const base::TimePoint now = Now();
    base::TimePoint wake = now + options_.keepalive;
    if (phase_ == Phase::kReady) {
      if (probing_ && now >= probe_limit_) {
        probing_ = false;
        BreakLocked(base::Unavailable("{} does not answer", options_.endpoint));
      }
      if (!outgoing_.empty()) {
        out = std::move(outgoing_.front());
        outgoing_.pop_front();
        if (const auto call = calls_.find(out.stream); call != calls_.end()) call->second->sent = true;
        stream = stream_;
        return true;
      }
      if (now - last_write_ >= options_.keepalive) {
        outgoing_.push_back({0, EncodeStoreFrame(0, StorePing{}), {}});
        continue;
      }
      wake = last_write_ + options_.keepalive;
      if (probing_) wake = std::min(wake, probe_limit_);
    }
    wake_writer_.WaitUntil(mutex_, wake);
  }
  return false;
}

void RemoteLink::WriteLoop() {
  Outgoing out;
  std::shared_ptr<transport::Stream> stream;
  while (AwaitOutgoing(out, stream)) {
    const std::span<const std::byte> pieces[] = {out.frame, out.body.bytes()};
    const base::Status status = stream->Write(pieces, Now() + options_.write_timeout);
    out = {};
    base::MutexLock lock(mutex_);
    last_write_ = Now();
    // Half a frame may be on its way.
    if (!status.ok() && stream == stream_) BreakLocked(base::Unavailable("{}", status.message()));
    stream.reset();
  }
}

}  // namespace kvplane::store
