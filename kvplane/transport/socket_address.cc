#include "kvplane/transport/socket_address.h"

#include <netdb.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "kvplane/base/mutex.h"

namespace kvplane::transport {
namespace {

using Addresses = base::Result<std::vector<SocketAddress>>;

std::atomic<int> lookups_under_way{0};

addrinfo Hints(ResolveFor purpose, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | flags | (purpose == ResolveFor::kListen ? AI_PASSIVE : 0);
  return hints;
}

Addresses AskSystem(const TcpEndpoint& endpoint, ResolveFor purpose, int flags) {
  const addrinfo hints = Hints(purpose, flags);
  addrinfo* found = nullptr;
  const int error =
      ::getaddrinfo(endpoint.host.c_str(), std::to_string(endpoint.port).c_str(), &hints, &found);
  if (error != 0) return base::Unavailable("cannot resolve \"{}\": {}", endpoint.host, ::gai_strerror(error));
  std::vector<SocketAddress> out;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    SocketAddress& address = out.emplace_back();
    std::memcpy(&address.storage, at->ai_addr, at->ai_addrlen);
    address.size = at->ai_addrlen;
  }
  ::freeaddrinfo(found);
  if (out.empty()) return base::Unavailable("\"{}\" has no address", endpoint.host);
  return out;
}

// Counts a lookup in while it lives.
class LookupSlot {
 public:
  LookupSlot() : granted_(lookups_under_way.fetch_add(1) < kMaxNameLookups) {}
  ~LookupSlot() { --lookups_under_way; }
  LookupSlot(const LookupSlot&) = delete;
  LookupSlot& operator=(const LookupSlot&) = delete;
  bool granted() const { return granted_; }

 private:
  const bool granted_;
};

// Shared by who waits and the thread that looks up: either may be the last.
class Waiting {
 public:
  void Finish(Addresses found) {
    base::MutexLock lock(mutex_);
    found_.emplace(std::move(found));
    finished_.NotifyAll();
  }
  std::optional<Addresses> WaitUntil(base::TimePoint deadline) {
    base::MutexLock lock(mutex_);
    while (!found_.has_value() && finished_.WaitUntil(mutex_, deadline)) {
    }
    return std::move(found_);
  }

 private:
  base::Mutex mutex_;
  base::CondVar finished_;
  std::optional<Addresses> found_ KVPLANE_GUARDED_BY(mutex_);
};

}  // namespace

std::string SocketAddress::ToString() const {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (::getnameinfo(get(), size, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) !=
      0) {
    return "unknown";
  }
  return std::strchr(host, ':') != nullptr ? fmt::format("[{}]:{}", host, port)
                                           : fmt::format("{}:{}", host, port);
}

int NameLookupsUnderWay() { return lookups_under_way.load(); }

base::Status StartLookup(const TcpEndpoint& endpoint, ResolveFor purpose, const NameLookup& lookup,
                         OnResolved done) {
  auto slot = std::make_shared<LookupSlot>();
  if (!slot->granted()) {
    return base::ResourceExhausted("cannot resolve \"{}\": {} names are being looked up already",
                                   endpoint.host, kMaxNameLookups);
  }
  try {
    std::thread([slot = std::move(slot), endpoint, purpose, lookup, done = std::move(done)]() mutable {
      Addresses found = lookup ? lookup(endpoint, purpose) : AskSystem(endpoint, purpose, 0);
      slot.reset();  // so that who hears of the end may look up the next one
      done(std::move(found));
    }).detach();
  } catch (const std::system_error& error) {
    return base::ResourceExhausted("cannot resolve \"{}\": no thread: {}", endpoint.host, error.what());
  }
  return base::Status::Ok();
}

Addresses Resolve(const TcpEndpoint& endpoint, ResolveFor purpose, base::TimePoint deadline,
                  const NameLookup& lookup) {
  if (Addresses literal = AskSystem(endpoint, purpose, AI_NUMERICHOST); literal.ok()) return literal;
  if (base::Clock::System().Now() >= deadline) {
    return base::DeadlineExceeded("no time left to resolve \"{}\"", endpoint.host);
  }
  const auto waiting = std::make_shared<Waiting>();
  KVPLANE_RETURN_IF_ERROR(StartLookup(endpoint, purpose, lookup,
                                      [waiting](Addresses found) { waiting->Finish(std::move(found)); }));
  if (std::optional<Addresses> found = waiting->WaitUntil(deadline); found.has_value())
    return *std::move(found);
  return base::DeadlineExceeded("\"{}\" was not resolved in time", endpoint.host);
}

}  // namespace kvplane::transport
