// RoutedRequest: a client's request as the router sees it, and the two requests it becomes.
//
// The router reads only what it needs to place the request; the nodes check every field, and their refusals
// are passed on. It keeps the text: the parsed form takes many times as much, and requests wait for long.
//
// Thread safety: const after Parse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/server/api_error.h"

namespace kvplane::server {

// What the decode node must know of the prefill node.
struct TransferSource {
  std::string transfer_id;
  std::string engine_id;
  std::string kv_host;
  uint16_t kv_port = 0;
};

struct SplitBodies {
  std::string prefill;  // one token, not streamed, KV offered under the id
  std::string decode;   // the client's request plus where its KV comes from
};

class RoutedRequest {
 public:
  // 400 when the body is no JSON object, or when it has kv_transfer_params of its own: those name the host
  // that a decode node connects to, which is not for clients of a router to say.
  static ApiResult<RoutedRequest> Parse(std::string body);

  // One prompt and one choice.
  bool splittable() const { return splittable_; }
  bool stream() const { return stream_; }
  // Size of prompt or messages: the measure of prefill work before anything is tokenized.
  size_t prompt_bytes() const { return prompt_bytes_; }
  // What the prompt begins with (prefix_index.h): of the model's name, the tools and the prompt or messages,
  // as given. Equal chunks mean equal prefixes whatever the tokenizer and the chat template make of them.
  const std::vector<uint64_t>& prefix_chunks() const { return prefix_chunks_; }
  // Of prompt_bytes(), what `chunks` leading chunks stand for.
  size_t BytesOfChunks(size_t chunks) const;

  const std::string& plain_body() const { return body_; }
  // Parses the text again.
  SplitBodies Split(const TransferSource& source) const;

 private:
  RoutedRequest() = default;

  std::string body_;
  bool splittable_ = false;
  bool stream_ = false;
  size_t prompt_bytes_ = 0;
  size_t canonical_bytes_ = 0;
  std::vector<uint64_t> prefix_chunks_;
};

}  // namespace kvplane::server
