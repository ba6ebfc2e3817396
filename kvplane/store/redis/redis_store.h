// RedisStore: KV objects in a Redis Cluster, or in one Redis server.
//
// One object is one string value: a record (docs/formats/record.md) under the key
// "PREFIX:TENANT:CHAIN", tenant and chain hash in hexadecimal. Without a hash tag, so that the runs of one
// prompt spread over the nodes and are read from all of them at once. Ranged reads are GETRANGE, all of one
// Read() pipelined per node; a time to live is SET's PX; Redis itself evicts (set maxmemory and
// allkeys-lru), which is seen here as misses.
//
// Put reads the header that lies there, then sets: with NX where nothing lay, unconditionally over a worse
// object. Two writers that replace a worse object at the same time may leave the lesser of the two; both are
// right. The alternative, a script that compares in the server, would copy every value through Lua twice.
//
// Failures: a node that is gone, a cluster that is down or electing a master, and a reply that is no RESP
// are all kUnavailable within the deadline; the cluster is used again when it answers again (redis_client.h).
//
// A look-up that ends at a key of a node that is away is a miss when other nodes answered, kUnavailable when
// nobody did.
//
// EraseTenant() walks the masters one after the other. It fails when one cannot be reached, but it does not
// see keys that move from a node whose turn is to come to one that had its turn: while slots are being moved
// it may leave some, and has to be repeated afterwards.
//
// What Redis cannot do: Pin() is kUnimplemented (its eviction knows no pins), PutOptions::durable and Flush()
// promise nothing beyond the acknowledgement of the master, and a failover may lose the last puts or bring
// back what was erased just before.
//
// Thread safety: as Store.
#pragma once

#include <memory>

#include "kvplane/base/status.h"
#include "kvplane/store/redis/redis_options.h"
#include "kvplane/store/store.h"
#include "kvplane/transport/stream.h"

namespace kvplane::store {

// Redis refuses longer strings (proto-max-bulk-len, 512 MiB); header and object are one.
constexpr uint64_t kMaxRedisValueBytes = uint64_t{512} << 20;

// The key of an object: prefix, 16 and 64 hexadecimal digits.
std::string RedisKey(std::string_view prefix, const StoreKey& key);

// Connects at the first use, so a cluster that is down now is no error. `transport` must outlive the store
// and speak "tcp://HOST:PORT". kInvalidArgument for options that cannot be.
base::Result<std::unique_ptr<Store>> CreateRedisStore(const RedisOptions& options,
                                                      transport::Transport& transport);

}  // namespace kvplane::store
