// Where a Redis tier is and how to speak to it: the text form and its fields.
//
//     redis://HOST:PORT[,HOST:PORT...][?OPTION=VALUE[&OPTION=VALUE...]]
//     redis://USER:PASSWORD@HOST:PORT                (%XX for special bytes; better: password_file)
//     rediss://HOST:PORT[,HOST:PORT...][?...]        over TLS 1.3; a password comes from a file only
//
// Options: password_file, user, prefix, ttl_s, connections; of rediss also ca_file, cert_file and key_file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/redis/redis_slots.h"
#include "kvplane/transport/stream.h"
#include "kvplane/transport/tls_context.h"

namespace kvplane::store {

struct RedisOptions {
  // Any nodes of one cluster: the others are found through them. Or one server that is no cluster; more
  // addresses are then tried in order until one answers.
  std::vector<RedisAddress> seeds;

  std::string user{};      // empty: the default user
  std::string password{};  // empty: no AUTH is sent

  // TLS 1.3 to every node. The certificate of a node must be signed by `ca_pem` (empty: by one of the
  // system's authorities) and name the host or address that it is reached at, which in a cluster is what
  // CLUSTER SLOTS says. Certificate and key: this client's own, where the servers demand one.
  bool tls = false;
  transport::TlsCredentials credentials{};

  // Front of every key: [A-Za-z0-9_.-]. Two deployments may share a Redis under different prefixes.
  std::string prefix = "kvplane";
  // Of objects that come without one; zero: they stay until Redis evicts them.
  base::Duration default_ttl{};

  // Connections to one node, idle ones included; further callers wait for one. More lets more threads read at
  // once.
  size_t connections_per_node = 8;
  base::Duration connect_timeout = std::chrono::milliseconds(500);
  // A node that moves nothing for this long, or less than kMinRespBytesPerSecond, is given up.
  base::Duration stall_timeout = std::chrono::seconds(1);
};

constexpr size_t kMaxRedisSeeds = 64;
constexpr size_t kMaxRedisConnectionsPerNode = 256;

// Reads the files that are named. kInvalidArgument says what is wrong with the text (never quoting a
// password), kNotFound or kPermissionDenied when a file cannot be read.
base::Result<RedisOptions> ParseRedisSpec(std::string_view spec);

base::Status ValidateRedisOptions(const RedisOptions& options);

// How to reach the nodes: tcp, with TLS around it where the options say so. kInvalidArgument: certificates or
// keys that are none.
base::Result<std::shared_ptr<transport::Transport>> CreateRedisTransport(const RedisOptions& options);

}  // namespace kvplane::store
