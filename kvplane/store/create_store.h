// Makes stores from their text form, as it stands in flags and configuration files.
//
//     mem:[?bytes=8GiB&policy=s3fifo|lru&ttl_s=SECONDS&quota=BYTES]    memory of this process
//     dir:PATH[?bytes=200GB&ttl_s=SECONDS&scrub=BYTES]                 a folder on a local disk
//     tcp://HOST:PORT[?connections=N]                                  a kvplane store server
//     redis://HOST:PORT[,HOST:PORT...][?...]                           Redis (redis_options.h)
//     rediss://HOST:PORT[,HOST:PORT...][?...]                          Redis over TLS
//
// One text is that store. Several are a TieredStore in that order, which begins with memory. Bytes are SI
// (8GB) or binary (8GiB), quota is of each tenant, scrub is per second.
//
// Thread safety: CreateStore from any thread. A StoreStack belongs to one thread, the stores in it to all.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/store/store.h"
#include "kvplane/store/tiered_store.h"
#include "kvplane/transport/transport_security.h"

namespace kvplane::store {

// What a text does not say.
struct StoreAccess {
  transport::TransportSecurity security;  // of tcp:// connections
  bool create = true;                     // false: a folder that is no store yet is kNotFound
};

// A store with what it stands on. The stores go first when it is destroyed.
struct StoreStack {
  std::shared_ptr<transport::Transport> remote_transport;  // of tcp://
  std::vector<std::shared_ptr<transport::Transport>> redis_transports;
  std::unique_ptr<Store> store;
  TieredStore* tiered = nullptr;  // `store`, where it is a stack

  StoreStack() = default;
  StoreStack(StoreStack&&) = default;
  StoreStack& operator=(StoreStack&&) = delete;
};

// kInvalidArgument names the text and what is wrong with it; other codes as the tiers give them. Servers are
// not asked whether they are there.
base::Result<StoreStack> CreateStore(std::span<const std::string> specs, const StoreAccess& access);

}  // namespace kvplane::store
