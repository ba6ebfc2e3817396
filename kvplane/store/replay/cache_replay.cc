#include "kvplane/store/replay/cache_replay.h"

#include <limits>
#include <memory>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/store/lru.h"

namespace kvplane::store {
namespace {

using Node = EvictionNode<uint32_t>;
constexpr base::TimePoint kNow{};  // nothing is pinned in a replay

uint64_t Bound(uint64_t capacity) { return capacity == 0 ? std::numeric_limits<uint64_t>::max() : capacity; }

std::unique_ptr<EvictionPolicy<uint32_t>> MakePolicy(const ReplayPolicy& policy, uint64_t capacity) {
  switch (policy.kind) {
    case PolicyKind::kLru:
      return std::make_unique<Lru<uint32_t>>();
    case PolicyKind::kS3Fifo:
      return std::make_unique<S3Fifo<uint32_t>>(capacity, policy.shape);
  }
  KVPLANE_CHECK(false);
}

class Stack {
 public:
  Stack(uint32_t blocks, const ReplayPolicy& policy, const ReplayCapacity& capacity)
      : has_disk_(capacity.has_disk),
        memory_capacity_(Bound(capacity.memory)),
        disk_capacity_(Bound(capacity.disk)),
        policy_(MakePolicy(policy, memory_capacity_)),
        memory_(blocks),
        used_(blocks),
        disk_(capacity.has_disk ? blocks : 0),
        disk_writes_of_(disk_.size()) {
    for (uint32_t block = 0; block < blocks; ++block) {
      memory_[block].key = block;
      memory_[block].weight = 1;
    }
    for (uint32_t block = 0; block < disk_.size(); ++block) {
      disk_[block].key = block;
      disk_[block].weight = 1;
    }
  }

  bool InMemory(uint32_t block) const { return memory_[block].queue != 0; }
  bool OnDisk(uint32_t block) const { return has_disk_ && disk_[block].queue != 0; }

  void Use(uint32_t block) {
    policy_->Use(memory_[block]);
    used_[block] = true;
  }
  void Put(uint32_t block) {
    if (InMemory(block)) {
      Use(block);
    } else {
      PutInMemory(block);
    }
    WriteToDisk(block);
  }
  // A block found on disk goes up; in the last quarter of its life there it is written again (disk_store.h).
  void TakeFromDisk(uint32_t block) {
    if (OnDisk(block) && disk_writes_of_[block] + disk_capacity_ / 4 * 3 < result_.disk_writes) {
      disk_queue_.Unlink(disk_[block]);
      WriteToDisk(block);
      ++result_.disk_writes_again;
    }
    PutInMemory(block);
  }
  void PutInMemory(uint32_t block) {
    while (in_memory_ >= memory_capacity_) {
      const Node* const victim = policy_->Evict(kNow);
      KVPLANE_CHECK(victim != nullptr);
      --in_memory_;
      if (used_[victim->key] && WriteToDisk(victim->key)) ++result_.disk_writes_again;
    }
    used_[block] = false;
    policy_->Insert(memory_[block]);
    ++in_memory_;
  }

  ReplayResult& result() { return result_; }

 private:
  // False: it was there.
  bool WriteToDisk(uint32_t block) {
    if (!has_disk_ || OnDisk(block)) return false;
    while (disk_queue_.size() >= disk_capacity_) disk_queue_.PopBack();
    disk_queue_.PushFront(disk_[block]);
    disk_writes_of_[block] = ++result_.disk_writes;
    return true;
  }

  const bool has_disk_;
  const uint64_t memory_capacity_;
  const uint64_t disk_capacity_;
  const std::unique_ptr<EvictionPolicy<uint32_t>> policy_;
  std::vector<Node> memory_;
  std::vector<bool> used_;  // since it came into memory
  std::vector<Node> disk_;
  std::vector<uint64_t> disk_writes_of_;  // the count of writes when it was written
  EvictionQueue<uint32_t> disk_queue_{1};
  uint64_t in_memory_ = 0;
  ReplayResult result_;
};

void ReplayRequest(const std::vector<uint32_t>& blocks, Stack& stack) {
  size_t found = 0;
  for (; found < blocks.size(); ++found) {
    if (stack.InMemory(blocks[found])) {
      ++stack.result().memory_hits;
    } else if (stack.OnDisk(blocks[found])) {
      ++stack.result().disk_hits;
    } else {
      break;
    }
  }
  for (size_t i = found; i-- > 0;) {
    if (stack.InMemory(blocks[i])) {
      stack.Use(blocks[i]);
    } else {
      stack.TakeFromDisk(blocks[i]);
    }
  }
  for (size_t i = found; i < blocks.size(); ++i) stack.Put(blocks[i]);
  stack.result().blocks += blocks.size();
}

}  // namespace

ReplayResult Replay(const BlockTrace& trace, const ReplayPolicy& policy, const ReplayCapacity& capacity) {
  Stack stack(trace.block_bound, policy, capacity);
  std::vector<uint32_t> blocks;
  for (const TraceRequest& request : trace.requests) {
    blocks.clear();
    for (const BlockRun& run : trace.RunsOf(request)) {
      for (uint32_t i = 0; i < run.count; ++i) blocks.push_back(run.first + i);
    }
    ReplayRequest(blocks, stack);
  }
  return stack.result();
}

}  // namespace kvplane::store
