// DemoNode: a real node on loopback for tests: the demo model's engine, KV transfer, and a Server with a
// thread.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "kvplane/engine/engine.h"
#include "kvplane/model/chat_template.h"
#include "kvplane/model/tokenizer.h"
#include "kvplane/server/server.h"
#include "kvplane/transfer/kv_receiver.h"
#include "kvplane/transfer/kv_sender.h"
#include "kvplane/transport/stream.h"

namespace kvplane::server::testing {

struct DemoNodeOptions {
  std::string role = "unified";
  int model_copy = 0;  // two engines of one process need two copies of the model
  engine::EngineOptions engine;
  ServerOptions server;
  bool chat_template = true;
  const model::Tokenizer* tokenizer = nullptr;  // null: the demo model's
  bool names_kv_host = true;                    // false: as a node that listens for KV on all its addresses
};

class DemoNode {
 public:
  explicit DemoNode(const DemoNodeOptions& options = {});
  ~DemoNode();

  uint16_t port() const { return server_->port(); }
  Server& server() { return *server_; }
  engine::Engine& engine() { return *engine_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port()); }
  // Ends the server at once; the engine goes on until destruction.
  void StopServer();
  // Waits until Run has returned.
  void Join();

 private:
  std::shared_ptr<transport::Transport> transport_;
  std::unique_ptr<transfer::KvSender> sender_;
  std::unique_ptr<transfer::KvReceiver> receiver_;
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

const model::Tokenizer& DemoTokenizer();
const model::ChatTemplate& DemoChatTemplate();

}  // namespace kvplane::server::testing
