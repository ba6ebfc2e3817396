// ReuseNodes: the processes of `bench reuse`: a store server whose link is paced, a writer per mode that
// fills it and goes, and readers that find prefixes there.
//
// Real processes and sockets on loopback. The store paces what it sends (the `shaped` decorator), so that all
// readers of one store share one link; only one reads at a time.
//
// Thread safety: none; see ChildProcess.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/cli/node_process.h"
#include "apps/cli/prompt_source.h"
#include "kvplane/base/status.h"

namespace kvplane::cli {

struct ReuseSetting {
  std::filesystem::path model;
  std::vector<std::string> profiles;  // files, loaded by every node
  uint32_t threads = 1;
  std::string compute = "auto";  // of the first node; the others take what it chose
  uint32_t run_tokens = 256;
  std::filesystem::path folder;  // logs, and the disk store's files
};

// How a reader gets a prefix.
struct ReuseMode {
  std::string name;      // "cold", "remote int4", "dram", "disk", "redis", ...
  std::string store;     // text specification; empty: no store
  std::string strategy;  // what the writer codes with
  std::string load = "adaptive";
  bool keeps_local = false;  // the reader fills its own tier: the first request writes, the second reads
};

// A serve process that uses `mode`'s store under a tenant of its own, so that modes do not see each other's
// objects. Ready when it returns.
base::Result<NodeProcess> StartReuseNode(const ReuseSetting& setting, const ReuseMode& mode,
                                         const std::string& role);

// Sends every prompt once through a node that then drains, so that the store has their KV.
base::Status FillStore(const ReuseSetting& setting, const ReuseMode& mode, const std::vector<Prompt>& prompts,
                       base::Duration request_timeout);

// `kvplane store` in memory; 0 bits per second: not paced. Its address is field "store".
base::Result<NodeProcess> StartPacedStore(const ReuseSetting& setting, double link_bits_per_s);

}  // namespace kvplane::cli
