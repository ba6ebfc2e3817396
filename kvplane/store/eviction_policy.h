// Eviction policies: which entry leaves next. Used by the DRAM tier and by the trace replay, so that what is
// measured is what runs.
//
// A policy links nodes that its owner keeps (in a map, at stable addresses) and never allocates per use. An
// entry weighs what its owner says: bytes in a store, 1 in a replay of blocks.
//
// Thread safety: none; the owner locks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvplane/base/check.h"
#include "kvplane/base/clock.h"

namespace kvplane::store {

template <typename Key>
struct EvictionNode {
  Key key{};
  uint64_t weight = 0;
  base::TimePoint pinned_until{};  // not evicted before

  // Of the policy the node is linked in.
  EvictionNode* previous = nullptr;
  EvictionNode* next = nullptr;
  uint8_t queue = 0;  // 0: not linked
  uint8_t frequency = 0;
};

// Doubly linked queue of nodes that knows its weight: newest in front, oldest at the back.
template <typename Key>
class EvictionQueue {
 public:
  using Node = EvictionNode<Key>;

  // `tag` > 0 marks the nodes of this queue.
  explicit EvictionQueue(uint8_t tag) : tag_(tag) {}

  void PushFront(Node& node) {
    KVPLANE_DCHECK(node.queue == 0);
    node.previous = nullptr;
    node.next = front_;
    (front_ == nullptr ? back_ : front_->previous) = &node;
    front_ = &node;
    node.queue = tag_;
    weight_ += node.weight;
    ++size_;
  }
  void Unlink(Node& node) {
    KVPLANE_DCHECK(node.queue == tag_);
    (node.previous == nullptr ? front_ : node.previous->next) = node.next;
    (node.next == nullptr ? back_ : node.next->previous) = node.previous;
    node.previous = node.next = nullptr;
    node.queue = 0;
    weight_ -= node.weight;
    --size_;
  }
  Node* PopBack() {
    Node* const node = back_;
    if (node != nullptr) Unlink(*node);
    return node;
  }

  bool empty() const { return back_ == nullptr; }
  bool Holds(const Node& node) const { return node.queue == tag_; }
  uint64_t weight() const { return weight_; }
  size_t size() const { return size_; }

 private:
  uint8_t tag_;
  Node* front_ = nullptr;
  Node* back_ = nullptr;
  uint64_t weight_ = 0;
  size_t size_ = 0;
};

template <typename Key>
class EvictionPolicy {
 public:
  using Node = EvictionNode<Key>;
  virtual ~EvictionPolicy() = default;

  // A new entry. Requires: not linked; its weight stays as it is while it is linked.
  virtual void Insert(Node& node) = 0;
  // A use of an entry that is linked.
  virtual void Use(Node& node) = 0;
  // The entry goes for another reason than eviction; the policy forgets it.
  virtual void Remove(Node& node) = 0;
  // Unlinks and returns the next victim; null when nothing is left that is not pinned at `now`.
  virtual Node* Evict(base::TimePoint now) = 0;
};

enum class PolicyKind : uint8_t { kLru, kS3Fifo };

}  // namespace kvplane::store
