// S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023,
// algorithm 1), over weights instead of counts, and what prefix caches need beside it.
//
// New entries enter a small queue; those used while they pass through it go on to the main queue, the rest
// leave and are remembered as ghosts. An entry that comes back while its ghost is remembered enters the main
// queue at once. The main queue gives entries with uses another round (2 bits of frequency). So entries that
// are used once pass by without displacing those in use.
//
// The paper's shape (kPaperS3FifoShape) loses to LRU where nearly every block of a prompt comes back, but
// later than a tenth of the cache takes to pass by: one block lost early makes all behind it useless. Hence
// two changes, both on by default (docs/benchmarks.md has the figures):
//   adaptive  the small queue's share follows the ghosts, as in ARC (Megiddo, Modha, FAST 2003): one that
//             left the small queue too early widens it, one that left the main queue too early narrows it.
//   renewing  a use also puts the entry in front of its queue.
//
// Thread safety: none; the owner locks.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <list>
#include <unordered_map>

#include "kvplane/store/eviction_policy.h"

namespace kvplane::store {

struct S3FifoShape {
  double small_share = 0.5;  // of the capacity: the target of the small queue, at first if it is adaptive
  double ghost_share = 1;    // of the capacity: weight of the entries remembered after they left
  uint8_t uses_to_stay = 1;  // uses in the small queue that let an entry go on to the main queue
  bool adaptive = true;
  bool renewing = true;
};

constexpr S3FifoShape kPaperS3FifoShape = {
    .small_share = 0.1, .ghost_share = 0.9, .uses_to_stay = 2, .adaptive = false, .renewing = false};

template <typename Key, typename Hash = std::hash<Key>>
class S3Fifo final : public EvictionPolicy<Key> {
 public:
  using Node = EvictionNode<Key>;

  explicit S3Fifo(uint64_t capacity, const S3FifoShape& shape = {})
      : capacity_(static_cast<double>(capacity)),
        shape_(shape),
        small_target_(capacity_ * shape.small_share),
        ghost_capacity_(capacity_ * shape.ghost_share) {}

  void Insert(Node& node) override {
    node.frequency = 0;
    (ForgetGhost(node.key) ? main_ : small_).PushFront(node);
  }
  void Use(Node& node) override {
    node.frequency = std::min<uint8_t>(node.frequency + 1, kMaxFrequency);
    if (!shape_.renewing) return;
    EvictionQueue<Key>& queue = small_.Holds(node) ? small_ : main_;
    queue.Unlink(node);
    queue.PushFront(node);
  }
  void Remove(Node& node) override { (small_.Holds(node) ? small_ : main_).Unlink(node); }

  Node* Evict(base::TimePoint now) override {
    // Every step evicts, moves an entry to the main queue for good, or takes one of at most kMaxFrequency
    // rounds from an entry there: more steps than this mean that all is pinned.
    for (size_t left = (small_.size() + main_.size()) * (kMaxFrequency + 2); left > 0; --left) {
      const bool from_small =
          !small_.empty() && (static_cast<double>(small_.weight()) >= small_target_ || main_.empty());
      Node* const victim = from_small ? StepSmall(now) : StepMain(now);
      if (victim != nullptr) return victim;
    }
    return nullptr;
  }

  uint64_t small_weight() const { return small_.weight(); }
  uint64_t main_weight() const { return main_.weight(); }
  uint64_t ghost_weight() const { return ghosts_[0].weight + ghosts_[1].weight; }
  double small_target() const { return small_target_; }

 private:
  static constexpr uint8_t kMaxFrequency = 3;  // 2 bits
  // Bounds of an adaptive small queue, of the capacity: neither queue ever starves.
  static constexpr double kLeastShare = 0.01;
  static constexpr double kMostShare = 0.95;

  struct Ghost {
    Key key;
    uint64_t weight;
    uint8_t origin;  // index into ghosts_
  };
  struct Ghosts {
    std::list<Ghost> list;  // newest in front
    uint64_t weight = 0;
  };
  static constexpr uint8_t kFromSmall = 0;
  static constexpr uint8_t kFromMain = 1;

  Node* StepSmall(base::TimePoint now) {
    Node* const node = small_.PopBack();
    if (node->pinned_until <= now && node->frequency < shape_.uses_to_stay) {
      RememberGhost(*node, kFromSmall);
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
      // With renewing the queue's order says when it was used; frequency would only keep the dead.
      if (node->frequency == 0 || shape_.renewing) {
        if (shape_.adaptive) RememberGhost(*node, kFromMain);
        return node;
      }
      --node->frequency;
    }
    main_.PushFront(*node);
    return nullptr;
  }

  void RememberGhost(const Node& node, uint8_t origin) {
    if (static_cast<double>(node.weight) > ghost_capacity_) return;
    Ghosts& ghosts = ghosts_[origin];
    ghosts.list.push_front({.key = node.key, .weight = node.weight, .origin = origin});
    ghost_index_[node.key] = ghosts.list.begin();
    ghosts.weight += node.weight;
    while (static_cast<double>(ghost_weight()) > ghost_capacity_) {
      Ghosts& heavier =
          ghosts_[kFromSmall].weight > ghosts_[kFromMain].weight ? ghosts_[kFromSmall] : ghosts_[kFromMain];
      heavier.weight -= heavier.list.back().weight;
      ghost_index_.erase(heavier.list.back().key);
      heavier.list.pop_back();
    }
  }

  // Whether it was remembered; adapts to where it was lost.
  bool ForgetGhost(const Key& key) {
    const auto at = ghost_index_.find(key);
    if (at == ghost_index_.end()) return false;
    const auto ghost = at->second;
    if (shape_.adaptive) Adapt(*ghost);
    Ghosts& ghosts = ghosts_[ghost->origin];
    ghosts.weight -= ghost->weight;
    ghosts.list.erase(ghost);
    ghost_index_.erase(at);
    return true;
  }

  // ARC's rule: by the entry's weight, more when the other queue's ghosts outnumber this one's.
  void Adapt(const Ghost& ghost) {
    const auto own = static_cast<double>(std::max<uint64_t>(ghosts_[ghost.origin].weight, 1));
    const auto other = static_cast<double>(ghosts_[1 - ghost.origin].weight);
    const double step = static_cast<double>(ghost.weight) * std::max(1.0, other / own);
    small_target_ = std::clamp(small_target_ + (ghost.origin == kFromSmall ? step : -step),
                               capacity_ * kLeastShare, capacity_ * kMostShare);
  }

  const double capacity_;
  const S3FifoShape shape_;
  double small_target_;
  double ghost_capacity_;
  EvictionQueue<Key> small_{1};
  EvictionQueue<Key> main_{2};
  std::array<Ghosts, 2> ghosts_;
  std::unordered_map<Key, typename std::list<Ghost>::iterator, Hash> ghost_index_;
};

}  // namespace kvplane::store
