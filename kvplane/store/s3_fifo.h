// S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023,
// algorithm 1), over weights instead of counts.
//
// New entries enter a small queue; those used while they pass through it go on to the main queue, the rest
// leave and are remembered in the ghost queue. An entry that comes back while its ghost is remembered enters
// the main queue at once. The main queue is a FIFO that gives entries with uses another round (2 bits of
// frequency). So entries that are used once pass by without displacing those in use, and a use costs one
// saturating increment.
//
// Thread safety: none; the owner locks.
#pragma once

#include <algorithm>
#include <functional>
#include <list>
#include <unordered_map>

#include "kvplane/store/eviction_policy.h"

namespace kvplane::store {

struct S3FifoShape {
  double small_share = 0.1;  // of the capacity: the target of the small queue
  double ghost_share = 0.9;  // of the capacity: weight of the entries remembered after they left
  uint8_t uses_to_stay = 2;  // uses in the small queue that let an entry go on to the main queue
};

template <typename Key, typename Hash = std::hash<Key>>
class S3Fifo final : public EvictionPolicy<Key> {
 public:
  using Node = EvictionNode<Key>;

  explicit S3Fifo(uint64_t capacity, const S3FifoShape& shape = {})
      : small_target_(Share(capacity, shape.small_share)),
        ghost_capacity_(Share(capacity, shape.ghost_share)),
        uses_to_stay_(shape.uses_to_stay) {}

  void Insert(Node& node) override {
    node.frequency = 0;
    (ForgetGhost(node.key) ? main_ : small_).PushFront(node);
  }
  void Use(Node& node) override { node.frequency = std::min<uint8_t>(node.frequency + 1, kMaxFrequency); }
  void Remove(Node& node) override { (small_.Holds(node) ? small_ : main_).Unlink(node); }

  Node* Evict(base::TimePoint now) override {
    // Every step evicts, moves an entry to the main queue for good, or takes one of at most kMaxFrequency
    // rounds from an entry there: more steps than this mean that all is pinned.
    for (size_t left = (small_.size() + main_.size()) * (kMaxFrequency + 2); left > 0; --left) {
      const bool from_small = !small_.empty() && (small_.weight() >= small_target_ || main_.empty());
      Node* const victim = from_small ? StepSmall(now) : StepMain(now);
      if (victim != nullptr) return victim;
    }
    return nullptr;
  }

  uint64_t small_weight() const { return small_.weight(); }
  uint64_t main_weight() const { return main_.weight(); }
  uint64_t ghost_weight() const { return ghost_weight_; }

 private:
  static constexpr uint8_t kMaxFrequency = 3;  // 2 bits

  struct Ghost {
    Key key;
    uint64_t weight;
  };

  static uint64_t Share(uint64_t capacity, double share) {
    return static_cast<uint64_t>(static_cast<double>(capacity) * share);
  }

  Node* StepSmall(base::TimePoint now) {
    Node* const node = small_.PopBack();
    if (node->pinned_until <= now && node->frequency < uses_to_stay_) {
      RememberGhost(*node);
      return node;
    }
    node->frequency = 0;
    main_.PushFront(*node);
    return nullptr;
  }

  Node* StepMain(base::TimePoint now) {
    Node* const node = main_.PopBack();
    if (node == nullptr) return nullptr;
    if (node->pinned_until <= now) {
      if (node->frequency == 0) return node;
      --node->frequency;
    }
    main_.PushFront(*node);
    return nullptr;
  }

  void RememberGhost(const Node& node) {
    if (node.weight > ghost_capacity_) return;
    ghosts_.push_front({.key = node.key, .weight = node.weight});
    ghost_index_[node.key] = ghosts_.begin();
    ghost_weight_ += node.weight;
    while (ghost_weight_ > ghost_capacity_) {
      ghost_weight_ -= ghosts_.back().weight;
      ghost_index_.erase(ghosts_.back().key);
      ghosts_.pop_back();
    }
  }
  // Whether it was remembered.
  bool ForgetGhost(const Key& key) {
    const auto at = ghost_index_.find(key);
    if (at == ghost_index_.end()) return false;
    ghost_weight_ -= at->second->weight;
    ghosts_.erase(at->second);
    ghost_index_.erase(at);
    return true;
  }

  uint64_t small_target_;
  uint64_t ghost_capacity_;
  uint8_t uses_to_stay_;
  EvictionQueue<Key> small_{1};
  EvictionQueue<Key> main_{2};
  std::list<Ghost> ghosts_;  // newest in front
  std::unordered_map<Key, typename std::list<Ghost>::iterator, Hash> ghost_index_;
  uint64_t ghost_weight_ = 0;
};

}  // namespace kvplane::store
