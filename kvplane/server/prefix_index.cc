#include "kvplane/server/prefix_index.h"

#include <algorithm>
#include <bit>

#include "kvplane/base/endian.h"

namespace kvplane::server {
namespace {

// Multiply and rotate, finished as in MurmurHash3's 64-bit finaliser (Appleby, public domain): not
// cryptographic, for whoever makes prompts collide only has them placed together.
constexpr uint64_t kMultiplier = 0x9e3779b97f4a7c15u;

uint64_t Mix(uint64_t hash, uint64_t word) { return std::rotl(hash ^ word, 29) * kMultiplier; }

uint64_t Finish(uint64_t hash) {
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccdu;
  hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53u;
  return hash ^ (hash >> 33);
}

static_assert(kPromptChunkBytes % sizeof(uint64_t) == 0);

}  // namespace

std::vector<uint64_t> HashPromptChunks(std::string_view canonical) {
  const size_t count = std::min(canonical.size() / kPromptChunkBytes, kMaxPromptChunks);
  std::vector<uint64_t> hashes;
  hashes.reserve(count);
  const std::byte* at = reinterpret_cast<const std::byte*>(canonical.data());
  uint64_t state = kMultiplier;
  for (size_t chunk = 0; chunk < count; ++chunk) {
    for (size_t word = 0; word < kPromptChunkBytes / sizeof(uint64_t); ++word, at += sizeof(uint64_t)) {
      state = Mix(state, base::LoadLe<uint64_t>(at));
    }
    hashes.push_back(Finish(state));
  }
  return hashes;
}

void PrefixIndex::Insert(std::span<const uint64_t> chunks, size_t node, base::TimePoint now) {
  // The tail first: the head of a prompt, which others may share, is then the most recently used.
  for (size_t i = std::min(chunks.size(), options_.max_chunks); i-- > 0;) {
    const auto [found, added] = entries_.try_emplace(chunks[i]);
    if (added) {
      order_.push_front({.hash = chunks[i], .holders = {}});
      found->second = order_.begin();
    } else {
      order_.splice(order_.begin(), order_, found->second);
    }
    std::vector<Holder>& holders = found->second->holders;
    auto holder =
        std::find_if(holders.begin(), holders.end(), [&](const Holder& h) { return h.node == node; });
    if (holder == holders.end() && holders.size() >= kMaxChunkHolders) {
      holder = std::min_element(holders.begin(), holders.end(),
                                [](const Holder& a, const Holder& b) { return a.used < b.used; });
    }
    if (holder == holders.end()) {
      holders.push_back({node, now});
    } else {
      *holder = {node, now};
    }
  }
  while (entries_.size() > options_.max_chunks) {
    entries_.erase(order_.back().hash);
    order_.pop_back();
  }
}

std::vector<size_t> PrefixIndex::Match(std::span<const uint64_t> chunks, size_t nodes,
                                       base::TimePoint now) const {
  std::vector<size_t> matched(nodes);
  for (size_t i = 0; i < chunks.size(); ++i) {
    const auto found = entries_.find(chunks[i]);
    if (found == entries_.end()) break;
    bool anybody = false;
    for (const Holder& holder : found->second->holders) {
      const bool fresh = now - holder.used <= options_.max_age;
      if (!fresh || holder.node >= nodes || matched[holder.node] != i) continue;
      matched[holder.node] = i + 1;
      anybody = true;
    }
    if (!anybody) break;
  }
  return matched;
}

void PrefixIndex::Forget(size_t node) {
  for (Entry& entry : order_) {
    std::erase_if(entry.holders, [&](const Holder& holder) { return holder.node == node; });
  }
}

}  // namespace kvplane::server
