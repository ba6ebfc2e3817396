// kvplane serve: one node (unified, prefill or decode) behind the OpenAI-compatible API.
//
// Once ready it prints one line to standard output and nothing else there:
//   {"event":"ready","role":"prefill","http":"127.0.0.1:8000","compute":"bf16","kv":"tcp://127.0.0.1:7000"}
// SIGTERM or SIGINT drains (no new requests, running ones finish) within --drain-s and exits 0; a second
// signal ends at once with exit code 1.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/cli/node_runtime.h"

namespace kvplane::cli {

struct ServeArgs {
  RuntimeArgs runtime;
  std::string host = "127.0.0.1";  // other addresses need --auth-token-file or --insecure
  uint32_t port = 8000;            // 0: the system chooses
  std::string served_model_name;   // default: the model folder's name
  std::string kv_advertise;        // where others fetch KV, HOST[:PORT]; empty: where --kv-listen says
  std::vector<std::string> allowed_hosts;  // without a token: names clients may call this node by
  std::string auth_token_file;  // bearer token clients must send, and what nodes prove to each other
  bool insecure = false;        // allow a public address without a token
  std::string tls_certificate;  // HTTPS instead of HTTP: PEM files
  std::string tls_key;
  double drain_s = 30;
  std::string log_level = "info";
  bool log_json = false;
};

int CmdServe(const ServeArgs& args);

}  // namespace kvplane::cli
