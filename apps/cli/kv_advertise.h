// Where a node tells others to fetch its KV: not where it listens, which may be every address of its host.
//
// Thread safety: pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kvplane/base/status.h"

namespace kvplane::cli {

struct KvAddress {
  std::string host;   // empty: whatever host the node is reached by (server/node_context.h)
  uint16_t port = 0;  // of AdvertisedKv never 0
};

// `text` is HOST[:PORT], an IPv6 address in brackets; port 0: not given. kInvalidArgument says what is wrong;
// an address that stands for all of a host's is nowhere to connect to.
base::Result<KvAddress> ParseKvAdvertise(std::string_view text);

// What others are told. A host name in `listen` (tcp://HOST:PORT) is told as it is, since certificates are
// checked against it; a wildcard is not told at all. `advertise`, if not empty, wins. `bound`: what the
// listener says, with the port that the system chose.
base::Result<KvAddress> AdvertisedKv(std::string_view listen, std::string_view advertise,
                                     std::string_view bound);

}  // namespace kvplane::cli
