// ReuseReaders: nodes that find prefixes in a store, each in its mode, asked the same prompts.
//
// One at a time: the modes take turns at every prompt, so that what the machine does besides hits all alike.
// With clients: every mode by itself has several requests in flight, the modes in turn for every round.
//
// Thread safety: none; AskTogether() uses threads of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "apps/cli/completion_client.h"
#include "apps/cli/reuse_bench/reuse_nodes.h"
#include "kvplane/base/status.h"

namespace kvplane::cli {

struct ReuseReader {
  ReuseMode mode;
  NodeProcess node;
  std::unique_ptr<CompletionClient> client;
  bool exact = true;  // its outputs must equal the cold node's

  // Of every answer, in the order of rounds and prompts.
  std::vector<double> ttft_s;
  std::vector<double> tpot_s;        // of the tokens after the first
  std::vector<double> cached_share;  // of the prompt's tokens
  uint32_t identical = 0;            // outputs equal to the first reader's

  void Forget();  // what was measured
};

base::Result<ReuseReader> StartReuseReader(const ReuseSetting& setting, const ReuseMode& mode);

// Every prompt `rounds` times in every mode, the modes in rotating order; the first reader is the cold one.
// `warmup` comes before, unmeasured; readers that fill their own tier are then asked everything once.
base::Status AskInTurn(std::vector<ReuseReader>& readers, const std::vector<Prompt>& prompts,
                       const std::vector<Prompt>& warmup, uint32_t rounds);

// The same with `clients` requests of one reader in flight at a time.
base::Status AskTogether(std::vector<ReuseReader>& readers, const std::vector<Prompt>& prompts,
                         uint32_t rounds, uint32_t clients);

}  // namespace kvplane::cli
