// Least recently used: the entry whose last use is longest ago leaves.
//
// Thread safety: none; the owner locks.
#pragma once

#include "kvplane/store/eviction_policy.h"

namespace kvplane::store {

template <typename Key>
class Lru final : public EvictionPolicy<Key> {
 public:
  using Node = EvictionNode<Key>;

  void Insert(Node& node) override { queue_.PushFront(node); }
  void Use(Node& node) override {
    queue_.Unlink(node);
    queue_.PushFront(node);
  }
  void Remove(Node& node) override { queue_.Unlink(node); }
  Node* Evict(base::TimePoint now) override {
    // A pinned entry that comes up goes to the front; one round finds a victim or there is none.
    for (size_t left = queue_.size(); left > 0; --left) {
      Node* const node = queue_.PopBack();
      if (node->pinned_until <= now) return node;
      queue_.PushFront(*node);
    }
    return nullptr;
  }

 private:
  EvictionQueue<Key> queue_{1};
};

}  // namespace kvplane::store
