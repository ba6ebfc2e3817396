// RemoteStore: a kvplane store server on another node as a tier (docs/formats/store_wire.md).
//
// A few connections, made when they are first needed: reads and look-ups take the least busy of
// `read_connections`; what may take long (puts, flushes, erasure of tenants) has a connection of its own, so
// that nobody waits for a prefix behind it. All requests of one Read() are on the wire before the first
// answer is awaited. Bytes damaged on the way are an error of that call (kUnavailable), never delivered.
//
// A dead server costs the first call its deadline; while the connection is broken or suspect every call fails
// at once (kUnavailable), and one is let through after a back-off (remote_link.h).
//
// Stats are this client's own view; entries and bytes are not known to it (see Counters()).
//
// Thread safety and errors: as Store. Ownership: shares the transport.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kvplane/store/remote/remote_link.h"
#include "kvplane/store/remote/store_frames.h"
#include "kvplane/store/store.h"
#include "kvplane/transport/stream.h"

namespace kvplane::store {

struct RemoteStoreOptions {
  LinkOptions link;  // with the endpoint
  size_t read_connections = 2;
  // Quarantine() has no deadline of its own.
  base::Duration quarantine_timeout = std::chrono::seconds(2);
};

class RemoteStore : public Store {
 public:
  // Does not connect. kInvalidArgument.
  static base::Result<std::unique_ptr<RemoteStore>> Create(std::shared_ptr<transport::Transport> transport,
                                                           const RemoteStoreOptions& options);

  // What the server counts: its store as a whole, then the tiers it consists of.
  virtual base::Result<std::vector<TierCounters>> Counters(base::TimePoint deadline) = 0;
};

}  // namespace kvplane::store
