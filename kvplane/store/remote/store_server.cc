#include "kvplane/store/remote/store_server.h"

#include <algorithm>
#include <map>
#include <system_error>
#include <thread>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/base/mutex.h"
#include "kvplane/store/remote/server_connection.h"

namespace kvplane::store {
namespace {

// How often the threads of ended connections are collected.
constexpr base::Duration kCollectInterval = std::chrono::seconds(1);

// How often objects on their way in are looked at: often against the time that they may stand still.
constexpr int kLooksPerPutTimeout = 4;
constexpr base::Duration kShortestLook = std::chrono::milliseconds(5);
constexpr base::Duration kLongestLook = std::chrono::seconds(1);

constexpr size_t kAddressParts = 4;  // of all connections: what one address may have

// Pause after an accept that failed for a reason of this machine.
constexpr base::Duration kAcceptPause = std::chrono::milliseconds(200);

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

class StoreServer::State {
 public:
  State(std::unique_ptr<transport::Listener> listener, Store& store, StoreServerOptions options)
      : shared_(store, std::move(options)), listener_(std::move(listener)) {
    acceptor_ = std::thread([this] { Accept(); });
    watcher_ = std::thread([this] { WatchPuts(); });
  }

  ~State() {
    Drain(Now());
    {
      // What is in the store's hands still ends by the requests' own deadlines, or by the store's Shutdown().
      base::MutexLock lock(mutex_);
      while (!open_.empty()) changed_.Wait(mutex_);
      ended_watch_ = true;
      wake_watcher_.NotifyAll();
    }
    watcher_.join();
    acceptor_.join();
    Collect();
  }

  std::string endpoint() const { return listener_->endpoint(); }

  StoreServerCounters counters() const {
    StoreServerCounters counters;
    counters.protocol_errors = shared_.protocol_errors;
    counters.requests = shared_.requests;
    counters.requests_failed = shared_.requests_failed;
    counters.bytes_in = shared_.bytes_in;
    counters.bytes_out = shared_.bytes_out;
    counters.put_bytes_reserved = shared_.budget.reserved_bytes();
    counters.slow_puts = shared_.slow_puts;
    base::MutexLock lock(mutex_);
    counters.connections = open_.size();
    counters.connections_total = accepted_;
    counters.connections_refused = refused_;
    return counters;
  }

  void Drain(base::TimePoint deadline) {
    listener_->Shutdown();
    std::vector<std::shared_ptr<ServerConnection>> connections;
    {
      base::MutexLock lock(mutex_);
      stopping_ = true;
      for (const auto& [number, connection] : open_) connections.push_back(connection);
    }
    for (const auto& connection : connections) connection->Drain();
    {
      base::MutexLock lock(mutex_);
      while (!open_.empty() && changed_.WaitUntil(mutex_, deadline)) {
      }
    }
    for (const auto& connection : connections) connection->Close();
  }

 private:
  void Accept() {
    while (true) {
      auto stream = listener_->Accept(Now() + kCollectInterval);
      Collect();
      if (stream.ok()) {
        Start(*std::move(stream));
      } else if (stream.status().code() == base::StatusCode::kCancelled) {
        return;
      } else if (stream.status().code() != base::StatusCode::kDeadlineExceeded) {
        base::Log(base::LogLevel::kError, "accept: {}", stream.status().ToString());
        base::Clock::System().SleepUntil(Now() + kAcceptPause);
      }
    }
  }

  base::Status CheckRoom(const std::string& address) const KVPLANE_REQUIRES(mutex_) {
    const StoreServerOptions& options = shared_.options;
    if (stopping_) return base::Unavailable("the store is stopping");
    if (open_.size() >= options.max_connections) {
      return base::ResourceExhausted("{} connections are open", open_.size());
    }
    const size_t most = options.address_connections != 0
                            ? options.address_connections
                            : std::max(options.max_connections / kAddressParts, kMinAddressConnections);
    const auto same = std::ranges::count_if(
        open_, [&address](const auto& other) { return other.second->address() == address; });
    if (static_cast<size_t>(same) < most) return base::Status::Ok();
    return base::ResourceExhausted("{} connections from its address are open", same);
  }

  void Start(std::unique_ptr<transport::Stream> stream) {
    const std::string peer = stream->peer();
    base::MutexLock lock(mutex_);
    const uint64_t number = accepted_ + 1;
    auto connection = std::make_shared<ServerConnection>(shared_, std::move(stream), number);
    if (const base::Status room = CheckRoom(connection->address()); !room.ok()) {
      ++refused_;
      shared_.refusals.Note(room.Annotate(peer));
      return;
    }
    accepted_ = number;
    open_.emplace(number, connection);
    try {
      threads_.emplace(number, std::thread([this, connection, number] { Serve(connection, number); }));
    } catch (const std::system_error& error) {  // at the thread limit: one client less, not one server
      base::Log(base::LogLevel::kError, "{}: refused, no thread: {}", peer, error.what());
      ++refused_;
      open_.erase(number);
    }
  }

  void Serve(const std::shared_ptr<ServerConnection>& connection, uint64_t number) {
    std::thread worker;
    try {
      worker = std::thread([connection] { connection->Work(); });
      connection->Read();
    } catch (const std::system_error& error) {
      base::Log(base::LogLevel::kError, "a client is refused, no thread: {}", error.what());
    }
    connection->Close();
    if (worker.joinable()) worker.join();
    base::MutexLock lock(mutex_);
    open_.erase(number);
    ended_.push_back(number);
    changed_.NotifyAll();
  }

  // A thread of its own: those of a connection may be waiting for the very client that keeps it waiting.
  void WatchPuts() {
    const base::Duration interval =
        std::clamp(shared_.options.put_timeout / kLooksPerPutTimeout, kShortestLook, kLongestLook);
    while (true) {
      std::vector<std::shared_ptr<ServerConnection>> connections;
      {
        base::MutexLock lock(mutex_);
        const base::TimePoint next = Now() + interval;
        while (!ended_watch_ && wake_watcher_.WaitUntil(mutex_, next)) {
        }
        if (ended_watch_) return;
        for (const auto& [number, connection] : open_) connections.push_back(connection);
      }
      for (const auto& connection : connections) connection->CheckPuts(Now());
    }
  }

  // Joins threads that are about to end.
  void Collect() {
    std::vector<std::thread> ended;
    {
      base::MutexLock lock(mutex_);
      for (const uint64_t number : ended_) {
        const auto found = threads_.find(number);
        ended.push_back(std::move(found->second));
        threads_.erase(found);
      }
      ended_.clear();
    }
    for (std::thread& thread : ended) thread.join();
  }

  ServerShared shared_;
  const std::unique_ptr<transport::Listener> listener_;
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  bool stopping_ KVPLANE_GUARDED_BY(mutex_) = false;
  std::map<uint64_t, std::shared_ptr<ServerConnection>> open_ KVPLANE_GUARDED_BY(mutex_);
  std::map<uint64_t, std::thread> threads_ KVPLANE_GUARDED_BY(mutex_);
  std::vector<uint64_t> ended_ KVPLANE_GUARDED_BY(mutex_);
  uint64_t accepted_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t refused_ KVPLANE_GUARDED_BY(mutex_) = 0;
  base::CondVar wake_watcher_;
  bool ended_watch_ KVPLANE_GUARDED_BY(mutex_) = false;
  std::thread acceptor_;
  std::thread watcher_;
};

base::Result<std::unique_ptr<StoreServer>> StoreServer::Create(transport::Transport& transport, Store& store,
                                                               StoreServerOptions options) {
  if (options.max_connections == 0 || options.max_requests == 0 || options.total_put_bytes == 0) {
    return base::InvalidArgument("a store server with room for nothing");
  }
  if (options.min_put_rate == 0 || options.put_timeout <= base::Duration::zero()) {
    return base::InvalidArgument("a store server that waits for objects for ever");
  }
  KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<transport::Listener> listener, transport.Listen(options.endpoint));
  return std::unique_ptr<StoreServer>(
      new StoreServer(std::make_unique<State>(std::move(listener), store, std::move(options))));
}

StoreServer::StoreServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
StoreServer::~StoreServer() = default;

std::string StoreServer::endpoint() const { return state_->endpoint(); }
StoreServerCounters StoreServer::counters() const { return state_->counters(); }
void StoreServer::Drain(base::TimePoint deadline) { state_->Drain(deadline); }

}  // namespace kvplane::store
