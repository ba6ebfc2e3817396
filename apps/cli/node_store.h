// The store of one node: flags to a store and to what the engine wants to know about it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/engine/prefix_options.h"
#include "kvplane/store/create_store.h"
#include "kvplane/transport/transport_security.h"

namespace kvplane::cli {

struct StoreArgs {
  std::vector<std::string> specs;         // store/create_store.h, fastest first; "none" or empty: no store
  std::string dram = "256MiB";            // memory in front of the first other tier; 0: none
  std::string strategy = "lossless-max";  // what pushed KV is coded with
  uint32_t quality = 0;                   // of a lossy strategy, in thousandths
  uint32_t min_quality = 0;               // of what is loaded
  uint32_t run_tokens = store::kDefaultRunTokens;
  std::string tenant;
  std::string salt_file;
  uint32_t timeout_ms = 250;      // of a lookup, and of one round of reads
  std::string load = "adaptive";  // or always
};

// Null: the node has no store. kInvalidArgument names the flag.
base::Result<std::unique_ptr<store::StoreStack>> OpenNodeStore(const StoreArgs& args,
                                                               const transport::TransportSecurity& security);

// `store` may be null.
base::Result<engine::PrefixOptions> PrefixOptionsFrom(const StoreArgs& args, store::Store* store);

}  // namespace kvplane::cli
