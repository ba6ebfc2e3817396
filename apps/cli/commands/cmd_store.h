// kvplane store: keeps KV objects for other nodes, in memory and on disk (docs/store.md).
//
// Once ready it prints one line to standard output and nothing else there:
//   {"event":"ready","role":"store","store":"tcp://127.0.0.1:7100","metrics":"127.0.0.1:9100"}
// SIGTERM or SIGINT stops taking requests, answers those it has and makes everything durable, within
// --drain-s, and exits 0; a second signal ends at once with exit code 1.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvplane/transport/transport_security.h"

namespace kvplane::cli {

struct StoreServerArgs {
  std::string listen = "tcp://127.0.0.1:7100";  // other addresses need protection or --insecure
  std::string dram = "1GiB";
  std::string policy = "s3fifo";
  std::string disk;  // folder; empty: none
  std::string disk_bytes = "200GB";
  double ttl_s = 0;                // of objects that come without one, in all tiers; 0: none
  std::string quota;               // of each tenant, in memory; empty: none
  std::vector<std::string> tiers;  // further ones, as create_store.h writes them
  uint32_t max_connections = 256;
  std::string metrics;    // HOST:PORT; empty: none
  std::string link_rate;  // of all that this process sends to clients; empty: not paced
  transport::SecurityFiles security;
  bool insecure = false;
  double drain_s = 30;
  std::string log_level = "info";
  bool log_json = false;
};

int CmdStore(const StoreServerArgs& args);

}  // namespace kvplane::cli
