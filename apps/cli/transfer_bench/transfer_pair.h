// TransferPair: a prefill and a decode end in one process, over real TCP on loopback, with the link between
// them paced by the `shaped` decorator: what `bench transfer` measures on.
//
// Both ends use the machine's cores, so on a small machine stages that would run on two nodes share it;
// figures say how many cores there are.
//
// Thread safety: none; one run at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "apps/cli/kv_sample.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/transfer/kv_receiver.h"
#include "kvplane/transfer/kv_sender.h"
#include "kvplane/transport/shaped_transport.h"

namespace kvplane::cli {

// The first `tokens` tokens of some KV, on their way from one place to another.
struct TransferJob {
  const PagedKv* from = nullptr;
  PagedKv* to = nullptr;
  uint32_t tokens = 0;
  const codec::Strategy* strategy = nullptr;
  base::Duration comes_after{};  // the job before it in a run; all have the same deadline, as a node's do
  // Layers are posted this far apart, as a forward pass would; zero: all at once.
  base::Duration layer_time{};
};

struct TransferTiming {
  transfer::TransferOutcome outcome;
  double total_s = 0;  // from the offer to the last decoded tile
};

class TransferPair {
 public:
  static base::Result<std::unique_ptr<TransferPair>> Create(size_t codec_threads,
                                                            codec::ProfileSet profiles = {});
  ~TransferPair();

  void SetRate(double bits_per_s) { link_->SetRate(bits_per_s); }  // transport::kUnlimitedRate: not shaped
  // All jobs in the order given, none waiting for the one before it; returns when the last has ended. An
  // error names the first that failed.
  base::Result<std::vector<TransferTiming>> Run(std::span<const TransferJob> jobs);

 private:
  TransferPair() = default;

  std::shared_ptr<transport::Transport> tcp_;
  std::unique_ptr<transport::ShapedTransport> link_;  // what the prefill end writes through
  codec::ProfileSet profiles_;
  std::unique_ptr<transfer::KvSender> sender_;
  std::unique_ptr<transfer::KvReceiver> receiver_;
  uint64_t next_id_ = 0;
};

}  // namespace kvplane::cli
