#include "kvplane/store/redis/redis_client.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>

#include "kvplane/base/log.h"

namespace kvplane::store {
namespace {

// Longest call, for callers without a deadline of their own.
constexpr base::Duration kLongestCall = std::chrono::seconds(60);
// Between two questions after the slots: a broken cluster is not made worse by all its clients asking.
constexpr base::Duration kRefreshPause = std::chrono::milliseconds(100);
// Before a request is repeated while a slot moves or a cluster elects a master.
constexpr base::Duration kRetryPause = std::chrono::milliseconds(10);
// Calls that move less are sent to all nodes and then read from one after the other: the nodes work at the
// same time, and what they answer waits in the sockets. Above it each node gets a thread for the call, which
// may take milliseconds to start on a busy machine.
constexpr uint64_t kMaxInterleavedBytes = 4 << 20;
constexpr size_t kMaxNodeThreads = 16;
// What sockets may still hold of a command when the last byte has been handed to them.
constexpr uint64_t kMaxBytesInSockets = 8 << 20;

base::TimePoint Now() { return base::Clock::System().Now(); }

bool IsError(const RespValue& value, std::string_view begin) {
  return value.kind == RespKind::kError && value.text.starts_with(begin);
}

// The node is gone or silent, which others may be able to make up for.
bool IsNodeLoss(const base::Status& status) {
  return status.code() == base::StatusCode::kUnavailable ||
         status.code() == base::StatusCode::kDeadlineExceeded;
}

}  // namespace

base::Status RedisErrorStatus(const RespValue& error) {
  struct Meaning {
    std::string_view begin;
    base::StatusCode code;
  };
  static constexpr Meaning kMeanings[] = {
      {"CLUSTERDOWN", base::StatusCode::kUnavailable},
      {"MASTERDOWN", base::StatusCode::kUnavailable},
      {"LOADING", base::StatusCode::kUnavailable},
      {"TRYAGAIN", base::StatusCode::kUnavailable},
      {"BUSY", base::StatusCode::kUnavailable},
      {"READONLY", base::StatusCode::kUnavailable},
      {"MOVED", base::StatusCode::kUnavailable},  // redirected more often than is followed
      {"ASK", base::StatusCode::kUnavailable},
      {"NOREPLICAS", base::StatusCode::kUnavailable},
      {"OOM", base::StatusCode::kResourceExhausted},
      {"MISCONF", base::StatusCode::kResourceExhausted},  // its disk is full
      {"NOAUTH", base::StatusCode::kPermissionDenied},
      {"WRONGPASS", base::StatusCode::kPermissionDenied},
      {"NOPERM", base::StatusCode::kPermissionDenied},
      {"WRONGTYPE", base::StatusCode::kCorrupt},  // not our record
  };
  for (const Meaning& meaning : kMeanings) {
    if (error.text.starts_with(meaning.begin)) return base::Status(meaning.code, "redis: " + error.text);
  }
  return base::Internal("redis: {}", error.text);
}

RedisClient::RedisClient(const RedisOptions& options, transport::Transport& transport)
    : options_(options), transport_(transport) {}

void RedisClient::Execute(std::span<RedisRequest> requests, base::TimePoint deadline) {
  deadline = std::min(deadline, Now() + kLongestCall);
  const base::Status known =
      Now() < deadline ? Refresh(deadline) : base::DeadlineExceeded("redis: the deadline had passed already");
  std::vector<Route> routes;
  routes.reserve(requests.size());
  for (RedisRequest& request : requests) {
    if (known.ok()) {
      routes.push_back({.request = &request});
    } else {
      request.reply = known;
    }
  }
  for (uint32_t round = 0; !routes.empty() && round < kMaxRedisRounds; ++round) {
    std::vector<Group> groups = GroupByNode(routes);
    RunGroups(groups, deadline);
    if (round + 1 < kMaxRedisRounds) routes = FollowUp(std::move(routes), deadline);
  }
}

RedisClient::NodePtr RedisClient::NodeOf(const RedisAddress& address) {
  NodePtr& node = nodes_[address];
  if (node == nullptr) node = std::make_shared<RedisNode>(transport_, address, options_);
  return node;
}

std::vector<RedisClient::Group> RedisClient::GroupByNode(std::span<Route> routes) {
  base::MutexLock lock(mutex_);
  std::vector<Group> groups;
  std::unordered_map<RedisNode*, size_t> group_of;
  for (Route& route : routes) {
    if (route.node == nullptr) {
      const RedisAddress* const owner = map_ == nullptr ? nullptr : map_->Find(route.request->slot);
      if (owner == nullptr) {
        route.request->reply = base::Unavailable("redis: no node owns slot {}", route.request->slot);
        stale_ = true;
        continue;
      }
      route.node = NodeOf(*owner);
    }
    const auto [at, added] = group_of.try_emplace(route.node.get(), groups.size());
    if (added) groups.push_back({.node = route.node, .routes = {}});
    groups[at->second].routes.push_back(&route);
  }
  return groups;
}

void RedisClient::RunGroups(std::vector<Group>& groups, base::TimePoint deadline) {
  // One order for all callers: who holds a connection to one node may wait for one to a later node, never to
  // an earlier one. Hence nothing is sent again before every connection has been given back.
  std::sort(groups.begin(), groups.end(),
            [](const Group& a, const Group& b) { return a.node->address() < b.node->address(); });
  uint64_t bytes = 0;
  for (const Group& group : groups) {
    for (const Route* route : group.routes) {
      bytes += route->request->limits.max_bulk_bytes + route->request->command.bytes();
    }
  }
  if (groups.size() > 1 && bytes > kMaxInterleavedBytes) return RunInThreads(groups, deadline);
  std::vector<Exchange> exchanges;
  for (const Group& group : groups) exchanges.push_back({.node = group.node.get(), .rest = group.routes});
  std::vector<Exchange*> unfinished;
  for (Exchange& exchange : exchanges) unfinished.push_back(&exchange);
  while (!unfinished.empty()) {
    for (Exchange* const exchange : unfinished) Send(*exchange, deadline);
    std::vector<Exchange*> more;
    for (Exchange* const exchange : unfinished) {
      if (Receive(*exchange, deadline)) more.push_back(exchange);
    }
    unfinished = std::move(more);
  }
}

void RedisClient::RunInThreads(std::span<Group> groups, base::TimePoint deadline) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < groups.size(); i = next.fetch_add(1)) {
      Run({.node = groups[i].node.get(), .rest = groups[i].routes}, deadline);
    }
  };
  std::vector<std::thread> threads;
  try {
    while (threads.size() + 1 < std::min(groups.size(), kMaxNodeThreads)) threads.emplace_back(work);
  } catch (const std::system_error&) {
    // No more threads to be had: this one works through the rest.
  }
  work();
  for (std::thread& thread : threads) thread.join();
}

void RedisClient::Run(Exchange exchange, base::TimePoint deadline) {
  do {
    Send(exchange, deadline);
  } while (Receive(exchange, deadline));
}

void RedisClient::Send(Exchange& exchange, base::TimePoint deadline) {
  base::Result<RedisLease> lease = exchange.node->Acquire(deadline, exchange.fresh);
  exchange.status = lease.status();
  if (!lease.ok()) return;
  exchange.lease.emplace(*std::move(lease));
  exchange.begun = Now();
  static const RespCommand kAsking = std::move(RespCommand(1).Arg("ASKING"));
  std::vector<const RespCommand*> commands;
  uint64_t reply_bytes = 0;
  exchange.command_bytes = 0;
  size_t& count = exchange.sent;
  for (count = 0; count < exchange.rest.size() && count < kMaxPipelinedRequests; ++count) {
    const Route& route = *exchange.rest[count];
    reply_bytes += route.request->limits.max_bulk_bytes;
    if (count > 0 && reply_bytes > kMaxPipelinedReplyBytes) break;
    exchange.command_bytes += route.request->command.bytes();
    if (route.ask) commands.push_back(&kAsking);
    commands.push_back(&route.request->command);
  }
  const base::TimePoint sent_by =
      std::min(deadline, Now() + options_.stall_timeout + RespTransferTime(exchange.command_bytes));
  exchange.status = WriteRespCommands((*exchange.lease)->stream(), commands, sent_by);
}

bool RedisClient::Receive(Exchange& exchange, base::TimePoint deadline) {
  const size_t before = exchange.rest.size();
  if (exchange.status.ok()) exchange.status = ReceiveReplies(exchange, deadline);
  RedisNode& node = *exchange.node;
  if (exchange.status.ok()) {
    exchange.lease->Keep();
    exchange.lease.reset();
    node.ReportSuccess();
    exchange.fresh = false;
    return !exchange.rest.empty();
  }
  const base::StatusCode code = exchange.status.code();
  if (exchange.lease.has_value()) {
    const bool used_before = (*exchange.lease)->used_before;
    exchange.lease.reset();
    // The server may have closed an idle connection long ago; every command may be sent twice.
    if (used_before && !exchange.retried && exchange.rest.size() == before &&
        code == base::StatusCode::kUnavailable) {
      exchange.fresh = exchange.retried = true;
      return true;
    }
    if (code == base::StatusCode::kDeadlineExceeded && Now() - exchange.begun < options_.stall_timeout) {
      node.ReportHurry(exchange.status);
    } else if (code != base::StatusCode::kCancelled) {
      node.ReportFailure(exchange.status);
    }
  }
  for (Route* route : exchange.rest) route->request->reply = exchange.status;
  return false;
}

base::Status RedisClient::ReceiveReplies(Exchange& exchange, base::TimePoint deadline) {
  RespReader& reader = (*exchange.lease)->reader();
  base::Duration grace = RespTransferTime(std::min(exchange.command_bytes, kMaxBytesInSockets));
  for (Route* route : exchange.rest.first(exchange.sent)) {
    if (route->ask) {
      KVPLANE_ASSIGN_OR_RETURN(const RespValue asking, reader.Next({}, deadline, grace));
      if (asking.kind != RespKind::kSimple) return base::Corrupt("redis: ASKING gives {}", asking.view());
    }
    KVPLANE_ASSIGN_OR_RETURN(RespValue reply, reader.Next(route->request->limits, deadline, grace));
    route->request->reply = std::move(reply);
    grace = {};
    exchange.rest = exchange.rest.subspan(1);
  }
  return base::Status::Ok();
}

std::vector<RedisClient::Route> RedisClient::FollowUp(std::vector<Route> routes, base::TimePoint deadline) {
  bool refresh = false;
  bool pause = false;
  std::erase_if(routes, [&](Route& route) { return !Follow(route, refresh, pause); });
  if (routes.empty() || Now() >= deadline) return {};
  if (pause) {
    base::MutexLock lock(mutex_);
    const base::TimePoint until = std::min(deadline, Now() + kRetryPause);
    while (!shut_down_ && Now() < until) changed_.WaitUntil(mutex_, until);
  }
  if (refresh && !Refresh(deadline).ok()) return {};
  std::erase_if(routes, [&](Route& route) { return !route.request->reply.ok() && !HasNewOwner(route); });
  return routes;
}

bool RedisClient::HasNewOwner(Route& route) {
  base::MutexLock lock(mutex_);
  const RedisAddress* const owner = map_ == nullptr ? nullptr : map_->Find(route.request->slot);
  if (owner == nullptr || *owner == route.node->address()) return false;
  route.node = nullptr;
  route.ask = false;
  return true;
}

bool RedisClient::Follow(Route& route, bool& refresh, bool& pause) {
  const base::Result<RespValue>& reply = route.request->reply;
  base::MutexLock lock(mutex_);
  if (shut_down_) return false;
  if (!reply.ok()) {
    if (route.node == nullptr || !IsNodeLoss(reply.status())) return false;
    stale_ = refresh = true;
    return true;
  }
  if (reply->kind != RespKind::kError) return false;
  if (IsError(*reply, "TRYAGAIN")) return pause = true;
  if (IsError(*reply, "READONLY")) {
    // Its master was replaced, and the node does not know slots or has not heard of it.
    route.node = nullptr;
    return stale_ = refresh = pause = true;
  }
  const std::optional<RedisRedirect> redirect = ParseRedirect(reply->text, route.node->address());
  if (!redirect || (nodes_.size() >= 2 * kMaxRedisNodes && !nodes_.contains(redirect->to))) return false;
  ++redirects_;
  route.node = NodeOf(redirect->to);
  route.ask = redirect->ask;
  if (!redirect->ask) {
    stale_ = true;  // more than one slot may have moved; asked before the next call
    if (map_ != nullptr) map_->Assign(redirect->slot, redirect->slot, redirect->to);
  }
  return true;
}

base::Status RedisClient::Refresh(base::TimePoint deadline) {
  {
    base::MutexLock lock(mutex_);
    while (true) {
      if (shut_down_) return base::Cancelled("redis: shut down");
      const bool known = map_ != nullptr;
      if (known && (!stale_ || refreshing_ || Now() < refreshed_at_ + kRefreshPause)) {
        return base::Status::Ok();
      }
      if (!refreshing_) break;
      if (!changed_.WaitUntil(mutex_, deadline) && Now() >= deadline) {
        return base::DeadlineExceeded("redis: nobody has said yet who owns which slots");
      }
    }
    refreshing_ = true;
  }
  base::Result<SlotMap> map = AskForSlots(deadline);
  base::MutexLock lock(mutex_);
  refreshing_ = false;
  refreshed_at_ = Now();
  changed_.NotifyAll();
  if (map.ok()) Adopt(*map);
  return map_ != nullptr ? base::Status::Ok() : map.status();
}

base::Result<SlotMap> RedisClient::AskForSlots(base::TimePoint deadline) {
  std::vector<NodePtr> candidates;
  {
    base::MutexLock lock(mutex_);
    if (map_ != nullptr) {
      for (const RedisAddress& address : map_->nodes()) candidates.push_back(NodeOf(address));
    }
    for (const RedisAddress& seed : options_.seeds) candidates.push_back(NodeOf(seed));
  }
  base::Result<SlotMap> incomplete = base::Unavailable("redis: no node answers");
  base::Status last = incomplete.status();
  for (const NodePtr& node : candidates) {
    if (Now() >= deadline) break;
    base::Result<SlotMap> map = AskOne(node, deadline);
    if (map.ok() && map->complete()) return map;
    if (map.ok() && !map->nodes().empty()) {
      if (!incomplete.ok()) incomplete = std::move(map);
    } else if (!map.ok()) {
      last = map.status();
    }
  }
  if (incomplete.ok()) return incomplete;
  return last;
}

base::Result<SlotMap> RedisClient::AskOne(const NodePtr& node, base::TimePoint deadline) {
  RedisRequest request(0, std::move(RespCommand(2).Arg("CLUSTER").Arg("SLOTS")), kClusterSlotsLimits);
  Route route{.request = &request, .node = node};
  Route* const only = &route;
  Run({.node = node.get(), .rest = {&only, 1}}, std::min(deadline, Now() + options_.stall_timeout));
  if (!request.reply.ok()) return request.reply.status();
  if (request.reply->kind == RespKind::kError) {
    // A server that stands alone.
    const std::string_view text = request.reply->text;
    if (text.find("cluster support disabled") != text.npos || text.starts_with("ERR unknown command")) {
      return SlotMap::Single(node->address());
    }
    return RedisErrorStatus(*request.reply);
  }
  return ParseClusterSlots(*request.reply, node->address());
}

void RedisClient::Adopt(const SlotMap& map) {
  map_ = std::make_unique<SlotMap>(map);
  stale_ = !map.complete();
  // Nodes that left are forgotten; calls that use them still hold them.
  std::erase_if(nodes_, [&](const auto& entry) {
    const auto is_it = [&](const RedisAddress& address) { return address == entry.first; };
    return std::none_of(map.nodes().begin(), map.nodes().end(), is_it) &&
           std::none_of(options_.seeds.begin(), options_.seeds.end(), is_it);
  });
}

base::Result<std::vector<RedisAddress>> RedisClient::Masters(base::TimePoint deadline) {
  {
    base::MutexLock lock(mutex_);
    stale_ = true;
  }
  KVPLANE_RETURN_IF_ERROR(Refresh(deadline));
  base::MutexLock lock(mutex_);
  if (map_ == nullptr || !map_->complete()) return base::Unavailable("redis: some slots have no master");
  return map_->nodes();
}

base::Result<RespValue> RedisClient::ExecuteOn(const RedisAddress& address, RespCommand command,
                                               const RespLimits& limits, base::TimePoint deadline) {
  NodePtr node;
  {
    base::MutexLock lock(mutex_);
    if (shut_down_) return base::Cancelled("redis: shut down");
    node = NodeOf(address);
  }
  RedisRequest request(0, std::move(command), limits);
  Route route{.request = &request, .node = node};
  Route* const only = &route;
  Run({.node = node.get(), .rest = {&only, 1}}, std::min(deadline, Now() + kLongestCall));
  if (!request.reply.ok()) return request.reply.status();
  if (request.reply->kind == RespKind::kError) return RedisErrorStatus(*request.reply);
  return std::move(request.reply);
}

void RedisClient::Shutdown() {
  base::MutexLock lock(mutex_);
  shut_down_ = true;
  for (const auto& [address, node] : nodes_) node->Shutdown();
  changed_.NotifyAll();
}

uint64_t RedisClient::redirects() const {
  base::MutexLock lock(mutex_);
  return redirects_;
}

}  // namespace kvplane::store
