// PrefixIndex: which node probably holds the KV of how much of a prompt. Approximate and bounded: it is made
// from what the router itself sent where, not from what the nodes kept.
//
// A prompt is known by a chain of hashes, one per kPromptChunkBytes of its canonical bytes, each over all
// bytes up to there, so that equal hashes mean equal prefixes. The router has no tokenizer: chunks of text
// stand for block runs of tokens (about 256 tokens of English).
//
// Least recently used chunks go first, heads of prompts last; a placement older than `max_age` counts no
// more, since the node will have evicted it. A wrong guess costs a prefill that was computed elsewhere
// before, never a wrong answer.
//
// Thread safety: none; the router's io thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kvplane/base/clock.h"

namespace kvplane::server {

constexpr size_t kPromptChunkBytes = 1024;
// Longest prefix that is told apart: 4 MB of text.
constexpr size_t kMaxPromptChunks = 4096;
// Nodes remembered per chunk; the longest unused one makes room.
constexpr size_t kMaxChunkHolders = 8;

// One hash per whole chunk of `canonical`.
std::vector<uint64_t> HashPromptChunks(std::string_view canonical);

struct PrefixIndexOptions {
  size_t max_chunks = 1 << 16;                        // 64 MB of prompts; about 8 MB of memory
  base::Duration max_age = std::chrono::minutes(10);  // since a node last got the chunk
};

class PrefixIndex {
 public:
  explicit PrefixIndex(const PrefixIndexOptions& options = {}) : options_(options) {}

  // The prompt of `chunks` goes to `node`.
  void Insert(std::span<const uint64_t> chunks, size_t node, base::TimePoint now);
  // How many leading chunks each of `nodes` nodes has got before. [nodes]
  std::vector<size_t> Match(std::span<const uint64_t> chunks, size_t nodes, base::TimePoint now) const;
  // The node lost what it held.
  void Forget(size_t node);

  size_t size() const { return entries_.size(); }

 private:
  struct Holder {
    size_t node;
    base::TimePoint used;
  };
  struct Entry {
    uint64_t hash;
    std::vector<Holder> holders;
  };

  const PrefixIndexOptions options_;
  std::list<Entry> order_;  // most recently used first
  std::unordered_map<uint64_t, std::list<Entry>::iterator> entries_;
};

}  // namespace kvplane::server
