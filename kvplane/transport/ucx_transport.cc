#include "kvplane/transport/ucx_transport.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kvplane/transport/endpoint.h"
#include "kvplane/transport/ucx_engine.h"

namespace kvplane::transport {
namespace {

constexpr std::string_view kScheme = "ucx://";

class UcxStream final : public Stream {
 public:
  UcxStream(UcxEngine& engine, std::shared_ptr<UcxChannel> channel)
      : engine_(engine), channel_(std::move(channel)) {}
  ~UcxStream() override { Close(); }

  base::Status Write(std::span<const std::span<const std::byte>> pieces, base::TimePoint deadline) override {
    size_t left = 0;
    for (const auto piece : pieces) left += piece.size();
    size_t next = 0;  // piece
    size_t at = 0;    // byte of it
    while (left > 0) {
      KVPLANE_ASSIGN_OR_RETURN(const UcxChannel::Room room,
                               channel_->TakeCredit(std::min(left, kUcxChunkBytes), deadline));
      std::vector<std::byte> chunk;
      chunk.reserve(room.bytes);
      while (chunk.size() < room.bytes) {
        const auto rest = pieces[next].subspan(at);
        const auto part = rest.first(std::min(rest.size(), room.bytes - chunk.size()));
        chunk.insert(chunk.end(), part.begin(), part.end());
        at += part.size();
        if (at == pieces[next].size()) {
          ++next;
          at = 0;
        }
      }
      left -= chunk.size();
      engine_.Send(channel_, room.offset, std::move(chunk));
    }
    return base::Status::Ok();
  }

  base::Status Read(std::span<std::byte> into, base::TimePoint deadline) override {
    while (!into.empty()) {
      KVPLANE_ASSIGN_OR_RETURN(const size_t got, ReadSome(into, deadline));
      into = into.subspan(got);
    }
    return base::Status::Ok();
  }

  base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint deadline) override {
    KVPLANE_ASSIGN_OR_RETURN(const UcxChannel::Taken taken, channel_->TakeArrived(into, deadline));
    if (taken.grant) engine_.Grant(channel_, *taken.grant);
    return taken.bytes;
  }

  void Shutdown() override { Close(); }
  std::string peer() const override { return channel_->peer(); }

 private:
  void Close() {
    if (channel_->ShutDown()) engine_.End(channel_);
  }

  UcxEngine& engine_;
  const std::shared_ptr<UcxChannel> channel_;
};

class UcxListener final : public Listener {
 public:
  UcxListener(UcxEngine& engine, std::shared_ptr<UcxListening> listening)
      : engine_(engine),
        listening_(std::move(listening)),
        endpoint_(fmt::format("{}{}", kScheme, listening_->address.ToString())) {}

  ~UcxListener() override {
    Shutdown();
    engine_.StopListening(listening_);
  }

  base::Result<std::unique_ptr<Stream>> Accept(base::TimePoint deadline) override {
    base::MutexLock lock(listening_->mutex);
    while (true) {
      if (listening_->closed) return base::Cancelled("listener {} shut down", endpoint_);
      if (!listening_->waiting.empty()) break;
      if (!listening_->changed.WaitUntil(listening_->mutex, deadline) && listening_->waiting.empty() &&
          !listening_->closed) {
        return base::DeadlineExceeded("{}: nobody connected in time", endpoint_);
      }
    }
    std::shared_ptr<UcxChannel> channel = std::move(listening_->waiting.front());
    listening_->waiting.pop_front();
    return std::unique_ptr<Stream>(std::make_unique<UcxStream>(engine_, std::move(channel)));
  }

  std::string endpoint() const override { return endpoint_; }

  // Connections nobody accepted are closed, as the kernel does.
  void Shutdown() override {
    std::deque<std::shared_ptr<UcxChannel>> dropped;
    {
      base::MutexLock lock(listening_->mutex);
      listening_->closed = true;
      dropped.swap(listening_->waiting);
      listening_->changed.NotifyAll();
    }
    for (const std::shared_ptr<UcxChannel>& channel : dropped) engine_.Abort(channel);
  }

 private:
  UcxEngine& engine_;
  const std::shared_ptr<UcxListening> listening_;
  const std::string endpoint_;
};

class UcxTransport final : public Transport {
 public:
  explicit UcxTransport(std::unique_ptr<UcxEngine> engine) : engine_(std::move(engine)) {}

  std::string_view name() const override { return "ucx"; }
  Capabilities capabilities() const override { return {.cross_host = true, .cpu_ns_per_byte = 0.5}; }

  base::Result<std::unique_ptr<Listener>> Listen(std::string_view endpoint) override {
    KVPLANE_ASSIGN_OR_RETURN(const TcpEndpoint where, ParseUcxEndpoint(endpoint));
    KVPLANE_ASSIGN_OR_RETURN(
        const std::vector<SocketAddress> addresses,
        Resolve(where, ResolveFor::kListen, base::Clock::System().Now() + kListenResolveTimeout));
    base::Status status;
    for (const SocketAddress& address : addresses) {
      auto listening = std::make_shared<UcxListening>();
      listening->address = address;
      status = engine_->Listen(listening);
      if (status.ok()) {
        return std::unique_ptr<Listener>(std::make_unique<UcxListener>(*engine_, std::move(listening)));
      }
    }
    return status.Annotate(fmt::format("listen on {}", endpoint));
  }

  base::Result<std::unique_ptr<Stream>> Connect(std::string_view endpoint,
                                                base::TimePoint deadline) override {
    KVPLANE_ASSIGN_OR_RETURN(const TcpEndpoint where, ParseUcxEndpoint(endpoint));
    KVPLANE_ASSIGN_OR_RETURN(const std::vector<SocketAddress> addresses,
                             Resolve(where, ResolveFor::kConnect, deadline));
    base::Status status;
    for (size_t i = 0; i < addresses.size(); ++i) {
      const auto share = base::TimeLeft(base::Clock::System(), deadline) /
                         static_cast<base::Duration::rep>(addresses.size() - i);
      auto channel = std::make_shared<UcxChannel>(addresses[i].ToString());
      engine_->Connect(channel, addresses[i]);
      status = channel->WaitUntilConnected(base::Clock::System().Now() + share);
      if (status.ok()) {
        return std::unique_ptr<Stream>(std::make_unique<UcxStream>(*engine_, std::move(channel)));
      }
      engine_->Abort(channel);
    }
    return status;
  }

 private:
  const std::unique_ptr<UcxEngine> engine_;
};

}  // namespace

bool UcxIsBuilt() { return true; }

base::Result<std::unique_ptr<Transport>> CreateUcxTransport(const UcxOptions& options) {
  KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<UcxEngine> engine, UcxEngine::Create(options));
  return std::unique_ptr<Transport>(std::make_unique<UcxTransport>(std::move(engine)));
}

}  // namespace kvplane::transport
