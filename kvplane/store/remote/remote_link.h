// RemoteLink: one connection of a RemoteStore, made when it is first needed and again after it broke. Many
// calls share it: requests are written by the link's writer thread in the order given, replies are sorted to
// their calls by its reader thread.
//
// PeerHealth: what the links of one server know together, so that a dead server costs one call its deadline
// and the others nothing. While it is suspect (a call ran out of time and nothing at all was heard) or
// backing off (a connection broke or could not be made), calls fail at once.
//
// Thread safety: all members may be called from any thread. The transport outlives the link.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/rng.h"
#include "kvplane/base/status.h"
#include "kvplane/store/remote/store_frames.h"
#include "kvplane/transport/frame.h"
#include "kvplane/transport/stream.h"

namespace kvplane::store {

struct LinkOptions {
  std::string endpoint;
  base::Duration connect_timeout = std::chrono::seconds(2);  // until the server's HELLO
  // Within this time a server must answer a PING, after a call has run out of time and nothing was heard.
  base::Duration probe_timeout = std::chrono::seconds(2);
  base::Duration write_timeout = std::chrono::seconds(30);  // of one piece
  base::Duration keepalive = std::chrono::minutes(5);       // below the server's idle timeout
  base::Duration first_backoff = std::chrono::milliseconds(100);
  base::Duration max_backoff = std::chrono::seconds(5);
};

class PeerHealth {
 public:
  explicit PeerHealth(const LinkOptions& options, uint64_t seed) : options_(options), rng_(seed) {}

  // kUnavailable: do not try now; the message says why. `connected`: the caller has a connection, on which a
  // back-off of the others has no bearing.
  base::Status Check(bool connected, base::TimePoint now) const KVPLANE_EXCLUDES(mutex_);
  void Suspect() KVPLANE_EXCLUDES(mutex_);
  void Alive() KVPLANE_EXCLUDES(mutex_);  // something was heard
  void Greeted() KVPLANE_EXCLUDES(mutex_);
  void Failed(const base::Status& why, base::TimePoint now) KVPLANE_EXCLUDES(mutex_);

 private:
  const LinkOptions& options_;
  mutable base::Mutex mutex_;
  bool suspect_ KVPLANE_GUARDED_BY(mutex_) = false;
  base::Duration backoff_ KVPLANE_GUARDED_BY(mutex_){};
  base::TimePoint retry_at_ KVPLANE_GUARDED_BY(mutex_){};
  std::string why_ KVPLANE_GUARDED_BY(mutex_);
  base::Rng rng_ KVPLANE_GUARDED_BY(mutex_);
};

// One request and what became of it. From Start() until Await() has returned it belongs to the link's lock,
// except the bytes of a READ and their counts: the link's reader's until it is finished.
struct RemoteCall {
  // Set by the caller before Start().
  StoreFrameType type{};
  uint64_t expected_bytes = 0;  // READ: of the range, zero if it goes to the end
  size_t expected_keys = 0;     // LOOKUP

  bool finished = false;
  base::Status status;
  uint64_t value = 0;                  // STATUS
  uint64_t go_limit = 0;               // GO: bytes that may have been sent
  std::vector<EntryInfo> found;        // FOUND
  std::vector<TierCounters> tiers;     // COUNTERS
  std::shared_ptr<std::byte[]> bytes;  // DATA
  uint64_t total = 0;
  uint64_t received = 0;
  bool data_begun = false;

  uint32_t stream = 0;
  bool sent = false;  // the writer took its first frame
  base::TimePoint started{};
  base::CondVar changed;
};

class RemoteLink {
 public:
  RemoteLink(transport::Transport& transport, const LinkOptions& options, PeerHealth& health);
  ~RemoteLink();
  RemoteLink(const RemoteLink&) = delete;
  RemoteLink& operator=(const RemoteLink&) = delete;

  // Makes sure of a connection. kUnavailable, kDeadlineExceeded, kCancelled.
  base::Status AwaitReady(base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);

  // A number for a call; none is used twice.
  uint32_t NextStream() KVPLANE_EXCLUDES(mutex_);

  // Queues the request; `frame` is for stream `call->stream`. Waits while the server has as many as it keeps.
  // What goes wrong finishes the call.
  void Start(const std::shared_ptr<RemoteCall>& call, std::vector<std::byte> frame, Slice body,
             base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);
  // Queues one more frame of a call that was let go. False: it has finished.
  bool Continue(const RemoteCall& call, std::vector<std::byte> frame, Slice body) KVPLANE_EXCLUDES(mutex_);

  // Until the call has finished. At the deadline it is given up and cancelled.
  base::Status Await(const std::shared_ptr<RemoteCall>& call, base::TimePoint deadline)
      KVPLANE_EXCLUDES(mutex_);
  // Of a PUT of which `sent` bytes are queued: until more may follow; how many bytes in all. `sent` itself:
  // the call has finished well. Otherwise as Await().
  base::Result<uint64_t> AwaitGo(const std::shared_ptr<RemoteCall>& call, uint64_t sent,
                                 base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);

  size_t unfinished() const KVPLANE_EXCLUDES(mutex_);
  void Shutdown() KVPLANE_EXCLUDES(mutex_);

 private:
  enum class Phase { kClosed, kConnecting, kReady };
  struct Outgoing {
    uint32_t stream = 0;
    std::vector<std::byte> frame;
    Slice body;
  };

  void ReadLoop();
  void WriteLoop();
  base::Status Serve() KVPLANE_EXCLUDES(mutex_);
  // The server's HELLO.
  static base::Result<StoreHello> Greet(transport::Stream& stream, transport::FrameReader& reader,
                                        base::TimePoint deadline);
  base::Status Pong(uint64_t cookie) KVPLANE_EXCLUDES(mutex_);
  base::Status HandleFrame(transport::FrameReader& reader);
  base::Status HandleReply(transport::FrameReader& reader, StoreFrameType type);
  base::Status HandleFound(transport::FrameReader& reader, const std::shared_ptr<RemoteCall>& call);
  base::Status HandleData(transport::FrameReader& reader, const std::shared_ptr<RemoteCall>& call);
  std::shared_ptr<RemoteCall> Find(uint32_t stream) KVPLANE_EXCLUDES(mutex_);
  void Finish(const std::shared_ptr<RemoteCall>& call, base::Status status) KVPLANE_EXCLUDES(mutex_);
  void FinishLocked(RemoteCall& call, base::Status status) KVPLANE_REQUIRES(mutex_);
  void Close(const base::Status& why) KVPLANE_EXCLUDES(mutex_);
  // Waits until the call has finished or its limit is beyond `sent`.
  void AwaitLocked(RemoteCall& call, uint64_t sent, base::TimePoint deadline) KVPLANE_REQUIRES(mutex_);
  void CancelLocked(const RemoteCall& call) KVPLANE_REQUIRES(mutex_);
  void ProbeLocked(base::TimePoint now) KVPLANE_REQUIRES(mutex_);
  void BreakLocked(base::Status why) KVPLANE_REQUIRES(mutex_);
  // What the writer does next; false when it shall end.
  bool AwaitOutgoing(Outgoing& out, std::shared_ptr<transport::Stream>& stream) KVPLANE_EXCLUDES(mutex_);
  void Heard() KVPLANE_EXCLUDES(mutex_);

  transport::Transport& transport_;
  const LinkOptions& options_;
  PeerHealth& health_;

  mutable base::Mutex mutex_;
  base::CondVar phase_changed_;
  base::CondVar wake_writer_;
  base::CondVar room_;  // a call less
  Phase phase_ KVPLANE_GUARDED_BY(mutex_) = Phase::kClosed;
  bool stopped_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool probing_ KVPLANE_GUARDED_BY(mutex_) = false;
  base::TimePoint probe_limit_ KVPLANE_GUARDED_BY(mutex_){};
  base::TimePoint last_heard_ KVPLANE_GUARDED_BY(mutex_){};
  base::TimePoint last_write_ KVPLANE_GUARDED_BY(mutex_){};
  uint32_t next_stream_ KVPLANE_GUARDED_BY(mutex_) = 0;
  size_t max_calls_ KVPLANE_GUARDED_BY(mutex_) = 1;  // of the connection's server
  std::shared_ptr<transport::Stream> stream_ KVPLANE_GUARDED_BY(mutex_);
  base::Status broken_ KVPLANE_GUARDED_BY(mutex_);  // why this end shut the stream down
  std::unordered_map<uint32_t, std::shared_ptr<RemoteCall>> calls_ KVPLANE_GUARDED_BY(mutex_);
  std::deque<Outgoing> outgoing_ KVPLANE_GUARDED_BY(mutex_);

  std::thread reader_;
  std::thread writer_;
};

}  // namespace kvplane::store
