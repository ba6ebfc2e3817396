// NodeRuntime: everything one node runs, wired: thread pool, model, tokenizer, transports, sender, receiver,
// engine, store.
//
// `serve`, `generate` and the benches build the same object from the same flags, so that what is measured is
// what is served. Members are destroyed in the reverse order of use; the engine goes first.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "apps/cli/node_store.h"
#include "kvplane/base/status.h"
#include "kvplane/base/thread_pool.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/engine/engine.h"
#include "kvplane/model/chat_template.h"
#include "kvplane/model/model.h"
#include "kvplane/model/tokenizer.h"
#include "kvplane/transport/stream.h"
#include "kvplane/transport/transport_security.h"

namespace kvplane::cli {

struct RuntimeArgs {
  std::string model = "models/demo";
  std::string role = "unified";  // unified, prefill (sends KV), decode (receives KV)
  uint32_t threads = 0;          // compute threads; 0: one per CPU
  std::string compute = "auto";  // GEMM type: auto (measured at start), bf16, f32
  std::string kv_size = "512MiB";
  uint32_t block_tokens = 64;  // a multiple of 16
  uint32_t step_tokens = 512;  // token budget of one step: larger prefills faster, smaller keeps TPOT even
  uint32_t max_running = 64;
  uint32_t max_queued = 1024;
  uint32_t max_context = 0;              // 0: the model's limit
  std::string strategy = "off";          // of transfers whose request names none
  std::vector<std::string> profiles;     // files; the first is what this node codes with
  std::string kv_transport = "tcp";      // what KV connections run over: tcp or ucx, the same on both sides
  std::string kv_listen;                 // where a prefill node serves KV; empty: any port of loopback
  transport::SecurityFiles kv_security;  // protects KV connections; the same on both nodes
  bool insecure = false;                 // serve KV on a public address to whoever connects
  uint32_t codec_threads = 1;
  uint32_t tile_retries = 3;
  double transfer_timeout_s = 30;
  double offer_lease_s = 10;    // computed KV that nobody has asked for is dropped
  double stall_timeout_s = 10;  // a transfer on which nothing arrives for this long has failed
  StoreArgs store{};            // none: prefixes of prompts are computed again
  std::string link_rate;        // shape what this node sends, e.g. 200Mbit/s; empty: not shaped
  std::string kv_fault;  // tests only: damage what this node sends, e.g. flip=1e-6,seed=7 (docs/testing.md)
};

// The endpoint that `args` name for serving KV.
std::string KvListen(const RuntimeArgs& args);

class NodeRuntime {
 public:
  static base::Result<std::unique_ptr<NodeRuntime>> Create(const RuntimeArgs& args);
  // Stops the engine, then gives the store some time to write what it has taken.
  ~NodeRuntime();

  engine::Engine& engine() { return *engine_; }
  model::Model& model() { return *model_; }
  size_t threads() const { return pool_->size(); }
  // For work between steps, while the engine is idle.
  base::ThreadPool& pool() { return *pool_; }
  const model::Tokenizer& tokenizer() const { return *tokenizer_; }
  const model::ChatTemplate* chat_template() const {
    return chat_template_.get();
  }  // null: the folder has none
  const codec::Strategy& default_strategy() const { return strategy_; }
  const codec::ProfileSet& profiles() const { return profiles_; }
  store::Store* store() { return store_ == nullptr ? nullptr : store_->store.get(); }  // null: none
  const store::StoreStack* store_stack() const { return store_.get(); }                // null: none
  std::string kv_endpoint() const { return sender_ == nullptr ? "" : sender_->endpoint(); }

 private:
  NodeRuntime() = default;
  base::Status LoadModel(const RuntimeArgs& args);
  base::Status CreateLink(const RuntimeArgs& args);
  base::Status CreateTransfer(const RuntimeArgs& args);
  base::Status CreateStore(const RuntimeArgs& args);
  base::Status CreateEngine(const RuntimeArgs& args);

  codec::Strategy strategy_;
  codec::ProfileSet profiles_;
  std::unique_ptr<base::ThreadPool> pool_;
  std::unique_ptr<model::Model> model_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  std::unique_ptr<model::ChatTemplate> chat_template_;
  std::shared_ptr<transport::Transport> transport_;  // tcp, perhaps protected, shaped, damaged
  std::unique_ptr<transfer::KvSender> sender_;
  std::unique_ptr<transfer::KvReceiver> receiver_;
  std::unique_ptr<store::StoreStack> store_;  // null: none
  std::unique_ptr<engine::Engine> engine_;
};

}  // namespace kvplane::cli
