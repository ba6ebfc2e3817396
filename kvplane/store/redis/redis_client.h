// Client of a Redis Cluster, or of one Redis server: sends commands of single keys to the nodes that own
// them.
//
// All requests of one Execute() are pipelined per node, and the nodes work at the same time.
// MOVED corrects the map of slots, ASK asks the node that a slot is moving to, a node that is gone makes the
// client ask the others who took over. A request follows at most kMaxRedisRounds of such answers.
//
// There is no thread in the background: a node that fails is left alone for up to a second (redis_node.h),
// and the next call after that tries again. So a cluster that recovers is used again by itself.
//
// Thread safety: all members may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"
#include "kvplane/store/redis/redis_node.h"
#include "kvplane/store/redis/redis_options.h"
#include "kvplane/store/redis/redis_slots.h"
#include "kvplane/store/redis/resp.h"
#include "kvplane/transport/stream.h"

namespace kvplane::store {

// The first try and the redirections of one request.
constexpr uint32_t kMaxRedisRounds = 6;
// Requests and reply bytes under way on one connection: bounds what a node buffers for a client that reads
// slowly.
constexpr size_t kMaxPipelinedRequests = 1024;
constexpr uint64_t kMaxPipelinedReplyBytes = 64 << 20;

struct RedisRequest {
  RedisRequest(uint16_t slot_of_key, RespCommand command_text, const RespLimits& reply_limits)
      : slot(slot_of_key), command(std::move(command_text)), limits(reply_limits) {}

  uint16_t slot;
  RespCommand command;
  RespLimits limits;
  // Out. Errors of the server other than redirections are values (RespKind::kError); see RedisErrorStatus().
  base::Result<RespValue> reply = base::Unavailable("redis: not asked");
};

// What a server's error means to a store. Requires: kind is kError.
base::Status RedisErrorStatus(const RespValue& error);

class RedisClient {
 public:
  // `transport` must outlive the client. Connects at the first use. Requires: valid options.
  RedisClient(const RedisOptions& options, transport::Transport& transport);
  RedisClient(const RedisClient&) = delete;
  RedisClient& operator=(const RedisClient&) = delete;

  void Execute(std::span<RedisRequest> requests, base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);

  // All masters; kUnavailable while some slots have none.
  base::Result<std::vector<RedisAddress>> Masters(base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);
  // One command for one node, whatever slots it owns.
  base::Result<RespValue> ExecuteOn(const RedisAddress& node, RespCommand command, const RespLimits& limits,
                                    base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);

  // Every call in progress returns soon, later ones return kCancelled.
  void Shutdown() KVPLANE_EXCLUDES(mutex_);

  uint64_t redirects() const KVPLANE_EXCLUDES(mutex_);  // MOVED and ASK followed

 private:
  using NodePtr = std::shared_ptr<RedisNode>;

  // A request on its way: where it goes next.
  struct Route {
    RedisRequest* request = nullptr;
    NodePtr node{};    // null: whoever owns the slot
    bool ask = false;  // ASKING before the command
  };
  struct Group {
    NodePtr node;
    std::vector<Route*> routes;
  };
  // The requests for one node on their way, batch by batch.
  struct Exchange {
    RedisNode* node;
    std::span<Route* const> rest;       // not answered yet
    std::optional<RedisLease> lease{};  // while a batch is under way
    size_t sent = 0;                    // the first ones of `rest`
    uint64_t command_bytes = 0;         // of those
    base::TimePoint begun{};
    bool fresh = false;  // idle connections are not to be trusted
    bool retried = false;
    base::Status status{};
  };

  NodePtr NodeOf(const RedisAddress& address) KVPLANE_REQUIRES(mutex_);
  // Routes grouped by node; a request that has nowhere to go keeps its error and is left out.
  std::vector<Group> GroupByNode(std::span<Route> routes) KVPLANE_EXCLUDES(mutex_);
  // The routes that must go on, with their next node.
  std::vector<Route> FollowUp(std::vector<Route> routes, base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);
  bool Follow(Route& route, bool& refresh, bool& pause) KVPLANE_EXCLUDES(mutex_);
  // A route that lost its node goes on only if somebody else has the slot now.
  bool HasNewOwner(Route& route) KVPLANE_EXCLUDES(mutex_);

  void RunGroups(std::vector<Group>& groups, base::TimePoint deadline);
  void RunInThreads(std::span<Group> groups, base::TimePoint deadline);
  void Run(Exchange exchange, base::TimePoint deadline);
  // Sends as much of `rest` as may be under way at once.
  void Send(Exchange& exchange, base::TimePoint deadline);
  // Reads the replies to what was sent. True: there is more to send.
  bool Receive(Exchange& exchange, base::TimePoint deadline);
  base::Status ReceiveReplies(Exchange& exchange, base::TimePoint deadline);

  // Asks the nodes who owns what. Returns at once when another thread does so or it was done just now, unless
  // nothing is known yet.
  base::Status Refresh(base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);
  base::Result<SlotMap> AskForSlots(base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_);
  base::Result<SlotMap> AskOne(const NodePtr& node, base::TimePoint deadline);
  void Adopt(const SlotMap& map) KVPLANE_REQUIRES(mutex_);

  const RedisOptions options_;
  transport::Transport& transport_;

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  std::map<RedisAddress, NodePtr> nodes_ KVPLANE_GUARDED_BY(mutex_);
  std::unique_ptr<SlotMap> map_ KVPLANE_GUARDED_BY(mutex_);  // null: nothing known yet
  bool stale_ KVPLANE_GUARDED_BY(mutex_) = false;            // a node said so
  bool refreshing_ KVPLANE_GUARDED_BY(mutex_) = false;
  base::TimePoint refreshed_at_ KVPLANE_GUARDED_BY(mutex_){};
  uint64_t redirects_ KVPLANE_GUARDED_BY(mutex_) = 0;
  bool shut_down_ KVPLANE_GUARDED_BY(mutex_) = false;
};

}  // namespace kvplane::store
