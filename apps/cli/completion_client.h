// CompletionClient: a blocking OpenAI completions client that measures what a user would see.
//
// It streams (server-sent events), takes the time of the first token and of the end, and collects token ids
// and the `kvplane` extension object. Deliberately separate from the router's asynchronous client: a
// measuring client must not share an event loop with what it measures.
//
// Thread safety: none; one object per thread. Connections are kept alive between calls.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/server/http_parser.h"

namespace kvplane::cli {

struct CompletionCall {
  std::string prompt;
  uint32_t max_tokens = 32;
  std::string strategy;  // empty: the node's default
  bool ignore_eos = true;
};

struct CompletionResult {
  double ttft_s = 0;  // request sent to first token received
  double jct_s = 0;   // request sent to last token received
  std::vector<int32_t> token_ids;
  std::string text;
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;  // of them, whose KV came from a store
  std::string source;          // "local", "transfer", "recompute"
  std::string recompute_reason;
  uint64_t bytes_raw = 0;
  uint64_t bytes_wire = 0;
};

class CompletionClient {
 public:
  // `address` is "HOST:PORT" with a numeric IPv4 host.
  explicit CompletionClient(std::string address) : address_(std::move(address)) {}
  ~CompletionClient();
  CompletionClient(const CompletionClient&) = delete;
  CompletionClient& operator=(const CompletionClient&) = delete;

  base::Result<CompletionResult> Complete(const CompletionCall& call, base::TimePoint deadline);

  // The HTTP status of GET `path`.
  base::Result<int> GetStatus(std::string_view path, base::TimePoint deadline);

 private:
  base::Status Connect(base::TimePoint deadline);
  void Close();
  base::Status Send(std::string_view bytes, base::TimePoint deadline);
  // Appends what has arrived; an orderly end is kUnavailable.
  base::Result<std::string> ReceiveSome(base::TimePoint deadline);
  base::Result<int> ReadStatus(base::TimePoint deadline);
  base::Result<CompletionResult> ReadStream(base::TimePoint sent, base::TimePoint deadline);

  std::string address_;
  int fd_ = -1;
};

}  // namespace kvplane::cli
