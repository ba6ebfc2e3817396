// ServerConnection: one client of a store server. Read() belongs to one thread, Work() to another; the
// protocol's state lies between them under one lock.
//
// Thread safety: Read() and ReadOne() from one thread, Work() and WorkOne() from one other, everything else
// from any. Ownership: shared with the server and with tickets of the put budget; the shared parts outlive
// it.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"
#include "kvplane/store/remote/put_budget.h"
#include "kvplane/store/remote/store_frames.h"
#include "kvplane/store/remote/store_server.h"
#include "kvplane/store/store.h"
#include "kvplane/transport/frame.h"
#include "kvplane/transport/refusal_log.h"
#include "kvplane/transport/stream.h"

namespace kvplane::store {

// What all connections of a server have in common.
struct ServerShared {
  Store& store;
  const StoreServerOptions options;
  PutBudget budget;
  std::atomic<uint64_t> protocol_errors{0};
  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> requests_failed{0};
  std::atomic<uint64_t> bytes_in{0};
  std::atomic<uint64_t> bytes_out{0};
  std::atomic<uint64_t> slow_puts{0};
  transport::RefusalLog refusals;  // whoever may connect may be refused, or break the protocol, all day

  ServerShared(Store& served, StoreServerOptions opts)
      : store(served), options(std::move(opts)), budget(SharesOf(options)) {}

 private:
  static PutBudget::Shares SharesOf(const StoreServerOptions& options);
};

class ServerConnection final : public PutBudget::Receiver,
                               public std::enable_shared_from_this<ServerConnection> {
 public:
  ServerConnection(ServerShared& shared, std::unique_ptr<transport::Stream> stream, uint64_t number);

  // Greets, then reads until the connection ends; Work() then ends, too.
  void Read();
  // Answers until the connection ends.
  void Work();

  // Single steps, for one thread in turns (fuzzing). False: the connection has ended. `wait`: for something
  // to do; otherwise it returns at once.
  bool ReadOne();
  bool WorkOne(bool wait);

  // Gives up objects that are late, and ends the connection when what it sends of objects comes too slowly.
  // From a thread that others wait for: it does not block (for longer than a farewell may take).
  void CheckPuts(base::TimePoint now) KVPLANE_EXCLUDES(mutex_);

  // Of the client, as far as all connections of one host have it in common.
  const std::string& address() const { return address_; }

  // New requests are refused; the connection ends when all it has are answered.
  void Drain();
  void Close();

  void OnPutGranted(const std::shared_ptr<PutBudget::Ticket>& ticket) override;

 private:
  // An object on its way in. `received` and `dropped` belong to the connection's lock, the bytes to the
  // reader until all are there.
  struct IncomingPut {
    PutFrame frame;
    uint32_t stream = 0;
    base::TimePoint deadline;
    base::TimePoint next_piece;  // by when; once granted
    std::shared_ptr<PutBudget::Ticket> ticket;
    std::shared_ptr<std::byte[]> bytes;
    uint64_t received = 0;
    bool go_sent = false;  // set before the client can know
  };
  struct LookupWork {
    uint16_t min_quality = 0;
    std::vector<StoreKey> keys;
  };
  struct TouchWork {
    std::vector<StoreKey> keys;
  };
  struct PutWork {
    std::shared_ptr<IncomingPut> put;
  };
  // Nothing is left to do but to say so.
  struct RefusalWork {
    base::Status why;
  };
  // An object was granted: tell the client. The ticket says which: the stream may be another put's by then.
  struct GoWork {
    std::shared_ptr<PutBudget::Ticket> ticket;
  };
  struct Request {
    uint32_t stream = 0;
    base::TimePoint deadline;
    size_t queued_bytes = 0;
    std::variant<FlushFrame, StatsFrame, LookupWork, TouchWork, ReadFrame, PutWork, GoWork, RefusalWork,
                 PinFrame, EraseFrame, EraseTenantFrame, QuarantineFrame>
        work;
  };

  // Reader's side.
  base::Status HandleFrame();
  base::Status HandleHello();
  base::Status HandleRequest(StoreFrameType type);
  base::Status HandleKeys(StoreFrameType type);
  base::Status HandlePut();
  base::Status HandlePutData();
  void HandleCancel(uint32_t stream) KVPLANE_EXCLUDES(mutex_);
  // Registers the request's stream. False: it was answered with a refusal.
  base::Result<bool> Open(uint32_t stream) KVPLANE_EXCLUDES(mutex_);
  template <typename Frame>
  base::Status Enqueue(base::Result<Frame> frame) KVPLANE_EXCLUDES(mutex_);
  void Push(Request request) KVPLANE_EXCLUDES(mutex_);
  void PushLocked(Request request) KVPLANE_REQUIRES(mutex_);
  base::Status CheckPutFrame(const PutFrame& frame) const;
  bool HasAlready(const PutFrame& frame, base::TimePoint deadline);
  std::shared_ptr<IncomingPut> FindPut(uint32_t stream) KVPLANE_EXCLUDES(mutex_);
  // Takes it out of the table and gives its bytes back. False: somebody else did.
  bool DropPut(const std::shared_ptr<IncomingPut>& put) KVPLANE_EXCLUDES(mutex_);

  // Worker's side.
  void Execute(Request request);
  bool StillWanted(const Request& request);
  void ServeLookup(const Request& request, const LookupWork& work);
  void ServeRead(const Request& request, const ReadRequest& range);
  void ServeReads(std::vector<Request> requests);
  void ServeUnits(const Request& request, const StoreKey& key, uint64_t offset, uint64_t bytes,
                  const EntryInfo& before);
  void ServePut(const Request& request, IncomingPut& put);
  // Takes memory for a granted object and lets the client send it. Either side.
  void BeginPut(const std::shared_ptr<IncomingPut>& put) KVPLANE_EXCLUDES(mutex_);
  void ServeStats(const Request& request);
  base::Result<Slice> ReadRange(const StoreKey& key, uint64_t offset, uint64_t bytes,
                                base::TimePoint deadline);
  // Not OK: the rest need not be sent, as the request was cancelled, the connection closed, or time is over.
  base::Status SendData(const Request& request, uint64_t total, uint64_t at, const Slice& slice);
  // Ends a request whose data was sent, or was not: a client that is there still learns that it came too
  // late.
  void EndData(uint32_t stream, const base::Status& sent);
  // Objects whose time is over; they are no longer in the table.
  std::vector<std::shared_ptr<IncomingPut>> TakeLatePuts(base::TimePoint now) KVPLANE_EXCLUDES(mutex_);
  base::Status WhyLate() const;
  // Bytes that may come: granted and not received yet.
  uint64_t AwaitedPutBytesLocked() const KVPLANE_REQUIRES(mutex_);
  void EndSlow(uint64_t awaited) KVPLANE_EXCLUDES(mutex_);
  base::TimePoint NextExpiryLocked() const KVPLANE_REQUIRES(mutex_);
  std::vector<Request> TakeRequests(bool wait) KVPLANE_EXCLUDES(mutex_);

  // Either side.
  void Answer(uint32_t stream, const base::Status& status, uint64_t value = 0);
  void Finish(uint32_t stream, bool failed) KVPLANE_EXCLUDES(mutex_);
  base::Status Send(std::span<const std::byte> frame, std::span<const std::byte> body = {})
      KVPLANE_EXCLUDES(mutex_);
  bool Cancelled(uint32_t stream) const KVPLANE_EXCLUDES(mutex_);
  void EndRead(const base::Status& status);

  ServerShared& shared_;
  const std::unique_ptr<transport::Stream> stream_;
  const uint64_t number_;
  const std::string address_;      // transport::HostOfPeer()
  transport::FrameReader reader_;  // the reader's own
  bool greeted_ = false;           // the reader's own
  base::TimePoint hello_limit_;    // the reader's own
  bool hello_received_ = false;    // the reader's own

  mutable base::Mutex mutex_;
  base::CondVar wake_worker_;
  base::CondVar wake_reader_;  // room in the queue
  base::CondVar wake_writer_;  // the stream is free to write on
  bool writing_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool closed_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool draining_ KVPLANE_GUARDED_BY(mutex_) = false;
  std::deque<Request> queue_ KVPLANE_GUARDED_BY(mutex_);
  size_t queued_bytes_ KVPLANE_GUARDED_BY(mutex_) = 0;
  std::unordered_set<uint32_t> open_ KVPLANE_GUARDED_BY(mutex_);       // requests not answered yet
  std::unordered_set<uint32_t> cancelled_ KVPLANE_GUARDED_BY(mutex_);  // of those, being worked on
  std::unordered_map<uint32_t, std::shared_ptr<IncomingPut>> puts_ KVPLANE_GUARDED_BY(mutex_);
  // By when more of its objects must have come, while bytes of them are awaited. Every byte moves it by what
  // min_put_rate gives it, never further ahead than put_timeout.
  base::TimePoint put_due_ KVPLANE_GUARDED_BY(mutex_){};
};

}  // namespace kvplane::store
