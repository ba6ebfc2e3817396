#include "kvplane/store/redis/redis_node.h"

#include <algorithm>

namespace kvplane::store {
namespace {

constexpr base::Duration kFirstPause = std::chrono::milliseconds(50);
constexpr base::Duration kLongestPause = std::chrono::seconds(1);
// Look-ups of a stack of tiers come with deadlines of some ten milliseconds: a node that hangs must not cost
// each of them that long.
constexpr uint32_t kMaxHurries = 3;

base::TimePoint Now() { return base::Clock::System().Now(); }

base::Status Authenticate(RedisConnection& connection, const RedisAddress& address,
                          const RedisOptions& options, base::TimePoint deadline) {
  if (options.password.empty()) return base::Status::Ok();
  RespCommand command(options.user.empty() ? 2 : 3);
  command.Arg("AUTH");
  if (!options.user.empty()) command.Arg(options.user);
  command.Arg(options.password);
  const RespCommand* const one = &command;
  KVPLANE_RETURN_IF_ERROR(WriteRespCommands(connection.stream(), {&one, 1}, deadline));
  KVPLANE_ASSIGN_OR_RETURN(const RespValue reply, connection.reader().Next({}, deadline));
  if (reply.kind == RespKind::kSimple) return base::Status::Ok();
  return base::PermissionDenied("{} refuses the password: {}", address.ToString(), reply.view());
}

}  // namespace

base::Result<std::unique_ptr<RedisConnection>> RedisConnection::Open(transport::Transport& transport,
                                                                     const RedisAddress& address,
                                                                     const RedisOptions& options,
                                                                     base::TimePoint deadline) {
  deadline = std::min(deadline, Now() + options.connect_timeout);
  KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<transport::Stream> stream,
                           transport.Connect(fmt::format("tcp://{}", address.ToString()), deadline));
  std::unique_ptr<RedisConnection> connection(new RedisConnection(std::move(stream), options.stall_timeout));
  KVPLANE_RETURN_IF_ERROR(Authenticate(*connection, address, options, deadline));
  return connection;
}

RedisLease::~RedisLease() {
  if (connection_ != nullptr) node_->Return(std::move(connection_), keep_);
}

base::Status RedisNode::Claim(bool fresh, base::TimePoint deadline, std::unique_ptr<RedisConnection>& idle) {
  base::MutexLock lock(mutex_);
  if (fresh) {
    open_ -= idle_.size();
    idle_.clear();
  }
  while (true) {
    if (shut_down_) return base::Cancelled("redis: shut down");
    if (Now() < retry_at_) {
      const bool refused = last_failure_.code() == base::StatusCode::kPermissionDenied;
      return base::Status(refused ? last_failure_.code() : base::StatusCode::kUnavailable,
                          fmt::format("{} failed a moment ago and is left alone: {}", address_.ToString(),
                                      last_failure_.message()));
    }
    if (!idle_.empty()) {
      idle = std::move(idle_.back());
      idle_.pop_back();
      busy_.push_back(idle.get());
      return base::Status::Ok();
    }
    if (open_ < options_.connections_per_node) {
      ++open_;
      return base::Status::Ok();
    }
    if (!returned_.WaitUntil(mutex_, deadline) && Now() >= deadline) {
      return base::DeadlineExceeded("all {} connections to {} are in use", options_.connections_per_node,
                                    address_.ToString());
    }
  }
}

base::Result<RedisLease> RedisNode::Acquire(base::TimePoint deadline, bool fresh) {
  std::unique_ptr<RedisConnection> connection;
  KVPLANE_RETURN_IF_ERROR(Claim(fresh, deadline, connection));
  if (connection == nullptr) {
    const base::TimePoint begun = Now();
    auto opened = RedisConnection::Open(transport_, address_, options_, deadline);
    if (!opened.ok()) {
      const bool hurried = opened.status().code() == base::StatusCode::kDeadlineExceeded &&
                           Now() - begun < options_.connect_timeout;
      hurried ? ReportHurry(opened.status()) : ReportFailure(opened.status());
      base::MutexLock lock(mutex_);
      --open_;
      returned_.NotifyOne();
      return opened.status();
    }
    connection = *std::move(opened);
    base::MutexLock lock(mutex_);
    if (shut_down_) {
      --open_;
      return base::Cancelled("redis: shut down");
    }
    busy_.push_back(connection.get());
  }
  return RedisLease(*this, std::move(connection));
}

void RedisNode::Return(std::unique_ptr<RedisConnection> connection, bool keep) {
  base::MutexLock lock(mutex_);
  std::erase(busy_, connection.get());
  if (keep && !shut_down_ && connection->reader().buffered() == 0) {
    connection->used_before = true;
    idle_.push_back(std::move(connection));
  } else {
    --open_;
  }
  returned_.NotifyOne();
}

void RedisNode::ReportFailure(const base::Status& why) {
  base::MutexLock lock(mutex_);
  hurries_ = 0;
  last_failure_ = why;
  const uint32_t doublings = std::min(failures_, 5u);  // 50 ms * 2^5 is beyond the longest pause
  retry_at_ = Now() + std::min(kLongestPause, kFirstPause * (1 << doublings));
  ++failures_;
  open_ -= idle_.size();
  idle_.clear();
  returned_.NotifyAll();  // waiters learn that the node is left alone
}

void RedisNode::ReportHurry(const base::Status& why) {
  {
    base::MutexLock lock(mutex_);
    if (++hurries_ < kMaxHurries) return;
  }
  ReportFailure(why);
}

void RedisNode::ReportSuccess() {
  base::MutexLock lock(mutex_);
  failures_ = 0;
  hurries_ = 0;
  retry_at_ = {};
}

bool RedisNode::left_alone() const {
  base::MutexLock lock(mutex_);
  return Now() < retry_at_;
}

void RedisNode::Shutdown() {
  base::MutexLock lock(mutex_);
  shut_down_ = true;
  for (RedisConnection* connection : busy_) connection->stream().Shutdown();
  open_ -= idle_.size();
  idle_.clear();
  returned_.NotifyAll();
}

}  // namespace kvplane::store
