// StoreServer: lets other processes use a Store over any transport (docs/formats/store_wire.md).
//
// A connection has two threads: one reads requests and takes objects in, one answers requests in order. So
// an object arrives while the one before is written, and a PING is answered while the medium is slow.
// Everything is bounded: connections, requests and bytes of one connection, objects on their way in of all
// connections together, of each and of each address; connections of one address. A third thread, one for the
// server, ends connections whose objects come too slowly (min_put_rate). Ranged reads are taken from the
// store in units and sent in pieces, in the order of the requests: layer 0 is with the client before layer 1
// is read.
//
// Who may connect is the transport's matter; whoever may can use every tenant's id.
//
// Thread safety: all members may be called from any thread. Ownership: transport, store and whatever
// the options' functions use outlive the server.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/remote/store_frames.h"
#include "kvplane/store/store.h"
#include "kvplane/transport/stream.h"

namespace kvplane::store {

// A client opens three or four, and several run on one machine.
constexpr size_t kMinAddressConnections = 16;

struct StoreServerOptions {
  std::string endpoint = "tcp://127.0.0.1:0";
  size_t max_connections = 256;  // more are closed at once
  // Of these, from one address (transport::HostOfPeer()), whether they have proved anything yet or not. 0: a
  // quarter of all, and at least kMinAddressConnections.
  size_t address_connections = 0;
  uint32_t max_requests = 1024;  // of one connection, unanswered

  // Objects on their way in: of all together (which bounds the largest object, too), of the connections from
  // one address, of one connection. An object beyond a share may exceed it alone (put_budget.h).
  uint64_t total_put_bytes = 2 * kMaxStoredBytes;
  uint64_t address_put_bytes = 0;     // 0: a quarter of all
  uint64_t connection_put_bytes = 0;  // 0: an eighth of all
  // Bytes a second that a connection must bring while objects of it are on their way in; slower, and it is
  // ended with ABORT. It may pause for put_timeout. 64 kbit/s: two thirds of what a piece needs to come over
  // the slowest link that is worth having (100 kbit/s); below it an object of 1 MB takes two minutes, and
  // whoever reserves room must at least do something for it.
  uint64_t min_put_rate = 8000;

  // The tiers that `store` consists of, told apart in STATS; may be empty.
  std::function<std::vector<TierCounters>()> tiers;
  // Asked before an object is let in, so that what the store would refuse is not sent; may be empty. Must not
  // block.
  std::function<base::Status(const StoreKey& key, uint64_t bytes)> admit;

  base::Duration hello_timeout = std::chrono::seconds(5);
  base::Duration idle_timeout = std::chrono::minutes(15);   // without a frame from the client
  base::Duration frame_timeout = std::chrono::seconds(60);  // from a frame's header to its end
  base::Duration put_timeout = std::chrono::seconds(30);    // without a piece of an object that may come
  base::Duration write_timeout = std::chrono::seconds(30);  // without the client taking a piece
};

struct StoreServerCounters {
  uint64_t connections = 0;        // now
  uint64_t connections_total = 0;  // accepted
  uint64_t connections_refused = 0;
  uint64_t protocol_errors = 0;  // connections ended for what came over them
  uint64_t requests = 0;
  uint64_t requests_failed = 0;  // answered with an error other than a miss
  uint64_t bytes_in = 0;         // of whole frames
  uint64_t bytes_out = 0;
  uint64_t put_bytes_reserved = 0;  // now
  uint64_t slow_puts = 0;           // connections ended because their objects came too slowly
};

class StoreServer {
 public:
  // Listens at once. kInvalidArgument, or what the transport says.
  static base::Result<std::unique_ptr<StoreServer>> Create(transport::Transport& transport, Store& store,
                                                           StoreServerOptions options);
  // Ends all connections and waits for calls of the store that are in progress: its Shutdown() ends them
  // sooner than their deadlines.
  ~StoreServer();

  std::string endpoint() const;  // with the real port
  StoreServerCounters counters() const;

  // Accepts nobody, refuses new requests (kUnavailable), answers those that it has, closes the connections as
  // they have none left; ends what is not done by `deadline`.
  void Drain(base::TimePoint deadline);

 private:
  class State;
  explicit StoreServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvplane::store
