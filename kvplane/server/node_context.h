// NodeContext: what the handlers of one node share. NodeInfo: how the node presents itself to routers.
//
// Thread safety: const once it serves; tokenizer, chat_template and metrics as they say themselves.
// Everything referred to outlives the handlers' work.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/engine/engine.h"
#include "kvplane/model/chat_template.h"
#include "kvplane/model/tokenizer.h"
#include "kvplane/server/serving_metrics.h"
#include "kvplane/server/text_worker.h"

namespace kvplane::server {

struct NodeInfo {
  std::string role = "unified";  // "unified", "prefill" or "decode": what routers use it for
  std::string engine_id;         // empty: a random one is made
  // Where decode nodes find the KV of this one. An empty host stands for the one that the caller reached this
  // node by: it listens on all its addresses and was not told which to name.
  std::string kv_host;
  uint16_t kv_port = 0;               // 0: it serves no KV
  std::string kv_transport = "tcp";   // of KV served and fetched: the scheme of its endpoints
  std::string model_fingerprint;      // hexadecimal; a router pairs only nodes that agree
  std::string default_strategy;       // canonical text, of transfers that name none
  std::vector<std::string> profiles;  // ids of the loaded model profiles, hexadecimal
};

struct NodeContext {
  engine::Engine& engine;
  const model::Tokenizer& tokenizer;
  const model::ChatTemplate* chat_template;  // null: the model has none
  ServingMetrics& metrics;
  TextWorker& texts;
  std::string model_name;
  NodeInfo info;
  base::Duration request_timeout;               // of one generation, from its arrival
  size_t longest_piece_bytes = 1;               // of the vocabulary: bounds the tokens of a text from below
  std::function<std::string()> more_metrics{};  // see ServerOptions
};

}  // namespace kvplane::server
