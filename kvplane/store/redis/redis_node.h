// One Redis server: a bounded set of connections and the memory of when it last failed.
//
// A connection belongs to one caller at a time. After a failure the node is left alone for a while that
// doubles up to a second: callers are refused at once, so that a dead node costs a miss and no wait.
//
// Thread safety: all members of RedisNode from any thread; a RedisLease stays with its thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"
#include "kvplane/store/redis/redis_options.h"
#include "kvplane/store/redis/resp.h"
#include "kvplane/transport/stream.h"

namespace kvplane::store {

class RedisConnection {
 public:
  // Connected and, when the options hold a password, authenticated.
  static base::Result<std::unique_ptr<RedisConnection>> Open(transport::Transport& transport,
                                                             const RedisAddress& address,
                                                             const RedisOptions& options,
                                                             base::TimePoint deadline);

  transport::Stream& stream() { return *stream_; }
  RespReader& reader() { return reader_; }

  bool used_before = false;  // idle connections may have been closed by the server meanwhile

 private:
  RedisConnection(std::unique_ptr<transport::Stream> stream, base::Duration stall)
      : stream_(std::move(stream)), reader_(*stream_, stall) {}

  const std::unique_ptr<transport::Stream> stream_;
  RespReader reader_;
};

class RedisNode;

// A connection in use. Closed at the end unless Keep() was called.
class RedisLease {
 public:
  RedisLease(RedisNode& node, std::unique_ptr<RedisConnection> connection)
      : node_(&node), connection_(std::move(connection)) {}
  RedisLease(RedisLease&& other) noexcept = default;
  RedisLease& operator=(RedisLease&&) = delete;
  ~RedisLease();

  RedisConnection& operator*() { return *connection_; }
  RedisConnection* operator->() { return connection_.get(); }
  // Every reply has been read: others may use the connection.
  void Keep() { keep_ = true; }

 private:
  RedisNode* node_;
  std::unique_ptr<RedisConnection> connection_;
  bool keep_ = false;
};

class RedisNode {
 public:
  // References must outlive the node.
  RedisNode(transport::Transport& transport, RedisAddress address, const RedisOptions& options)
      : transport_(transport), address_(std::move(address)), options_(options) {}

  const RedisAddress& address() const { return address_; }

  // An idle connection, else a new one, else the next one that is given back. kUnavailable at once while the
  // node is left alone; kPermissionDenied when it refuses the password. `fresh`: not an idle one, which are
  // all closed (one of them was found dead).
  base::Result<RedisLease> Acquire(base::TimePoint deadline, bool fresh = false) KVPLANE_EXCLUDES(mutex_);

  void ReportFailure(const base::Status& why) KVPLANE_EXCLUDES(mutex_);
  // A call ended at its own short deadline, which says little about the node. Several in a row, without a
  // success in between, count as a failure.
  void ReportHurry(const base::Status& why) KVPLANE_EXCLUDES(mutex_);
  void ReportSuccess() KVPLANE_EXCLUDES(mutex_);
  bool left_alone() const KVPLANE_EXCLUDES(mutex_);

  // Ends every connection and refuses new ones.
  void Shutdown() KVPLANE_EXCLUDES(mutex_);

 private:
  friend class RedisLease;
  void Return(std::unique_ptr<RedisConnection> connection, bool keep) KVPLANE_EXCLUDES(mutex_);
  // OK: one more connection may be opened and is counted already, or `idle` is one.
  base::Status Claim(bool fresh, base::TimePoint deadline, std::unique_ptr<RedisConnection>& idle)
      KVPLANE_EXCLUDES(mutex_);

  transport::Transport& transport_;
  const RedisAddress address_;
  const RedisOptions& options_;

  mutable base::Mutex mutex_;
  base::CondVar returned_;
  std::vector<std::unique_ptr<RedisConnection>> idle_ KVPLANE_GUARDED_BY(mutex_);
  std::vector<RedisConnection*> busy_ KVPLANE_GUARDED_BY(mutex_);  // for Shutdown()
  size_t open_ KVPLANE_GUARDED_BY(mutex_) = 0;                     // idle, busy and being opened
  uint32_t failures_ KVPLANE_GUARDED_BY(mutex_) = 0;               // in a row
  uint32_t hurries_ KVPLANE_GUARDED_BY(mutex_) = 0;                // in a row
  base::TimePoint retry_at_ KVPLANE_GUARDED_BY(mutex_){};
  base::Status last_failure_ KVPLANE_GUARDED_BY(mutex_);
  bool shut_down_ KVPLANE_GUARDED_BY(mutex_) = false;
};

}  // namespace kvplane::store
