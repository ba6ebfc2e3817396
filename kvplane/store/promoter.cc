#include "kvplane/store/promoter.h"

#include <algorithm>
#include <deque>
#include <list>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kvplane/base/mutex.h"

namespace kvplane::store {
namespace {

constexpr base::TimePoint kNever = base::TimePoint::max();

// While parts are held the thread looks this often whether some of them are too old: the clock may be one
// that a condition variable cannot wait for.
constexpr base::Duration kLookInterval = std::chrono::milliseconds(500);

// What is known and held of one object.
struct Assembly {
  StoreKey key{};
  EntryMeta meta{};
  uint64_t object_bytes = 0;
  base::TimePoint expires = kNever;
  uint64_t next = 0;  // offset of the part that is missing
  uint64_t epoch = 0;
  base::TimePoint last_part{};
  std::vector<Slice> parts;
};

Slice Join(const Assembly& assembly) {
  if (assembly.parts.size() == 1) return assembly.parts.front();
  std::vector<std::byte> whole;
  whole.reserve(assembly.object_bytes);
  for (const Slice& part : assembly.parts) {
    whole.insert(whole.end(), part.bytes().begin(), part.bytes().end());
  }
  return Slice::Own(std::move(whole));
}

class ThreadedPromoter final : public Promoter {
 public:
  ThreadedPromoter(base::Clock& clock, const PromoterOptions& options, Sink sink)
      : clock_(clock), options_(options), sink_(std::move(sink)), thread_([this] { Run(); }) {}
  ~ThreadedPromoter() override {
    Shutdown();
    thread_.join();
  }

  void Found(const StoreKey& key, const EntryInfo& info) override;
  void Delivered(const StoreKey& key, uint64_t offset, const Slice& bytes, uint64_t epoch) override;
  base::Status Drain(base::TimePoint deadline) override;
  PromoterStats stats() const override;
  void Shutdown() override;

 private:
  using Assemblies = std::list<Assembly>;

  void GiveUp(Assembly& assembly) KVPLANE_REQUIRES(mutex_);
  void Forget(Assemblies::iterator at) KVPLANE_REQUIRES(mutex_);
  // Gives up other assemblies, the oldest first, until `bytes` more fit. False: they never will.
  bool MakeRoom(uint64_t bytes, const Assembly& except) KVPLANE_REQUIRES(mutex_);
  bool HasRoom(uint64_t bytes, const Assembly& of) const KVPLANE_REQUIRES(mutex_);
  void GiveUpOld() KVPLANE_REQUIRES(mutex_);
  std::optional<Assembly> Next();
  void Run();

  base::Clock& clock_;
  const PromoterOptions options_;
  const Sink sink_;

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  bool shut_down_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool busy_ KVPLANE_GUARDED_BY(mutex_) = false;
  Assemblies assemblies_ KVPLANE_GUARDED_BY(mutex_);  // oldest in front
  std::unordered_map<StoreKey, Assemblies::iterator, StoreKeyHash> index_ KVPLANE_GUARDED_BY(mutex_);
  std::deque<Assembly> complete_ KVPLANE_GUARDED_BY(mutex_);
  PromoterStats stats_ KVPLANE_GUARDED_BY(mutex_);
  base::TimePoint next_look_ KVPLANE_GUARDED_BY(mutex_){};  // for old parts
  std::thread thread_;                                      // last: it uses everything above
};

void ThreadedPromoter::GiveUp(Assembly& assembly) {
  if (assembly.next > 0) ++stats_.given_up;
  stats_.held_bytes -= assembly.next;
  assembly.next = 0;
  assembly.parts.clear();
}

void ThreadedPromoter::Forget(Assemblies::iterator at) {
  GiveUp(*at);
  index_.erase(at->key);
  assemblies_.erase(at);
}

bool ThreadedPromoter::MakeRoom(uint64_t bytes, const Assembly& except) {
  for (Assembly& other : assemblies_) {
    if (HasRoom(bytes, except)) break;
    if (&other != &except) GiveUp(other);
  }
  return HasRoom(bytes, except);
}

bool ThreadedPromoter::HasRoom(uint64_t bytes, const Assembly& of) const {
  return stats_.held_bytes + bytes <= options_.max_bytes || stats_.held_bytes == of.next;
}

void ThreadedPromoter::GiveUpOld() {
  const base::TimePoint now = clock_.Now();
  if (stats_.held_bytes == 0 || now < next_look_) return;
  next_look_ = now + kLookInterval;
  for (Assembly& assembly : assemblies_) {
    if (assembly.next > 0 && now - assembly.last_part >= options_.patience) GiveUp(assembly);
  }
}

void ThreadedPromoter::Found(const StoreKey& key, const EntryInfo& info) {
  base::MutexLock lock(mutex_);
  if (shut_down_) return;
  if (const auto known = index_.find(key); known != index_.end()) {
    const Assembly& old = *known->second;
    if (old.object_bytes == info.bytes && old.meta.quality == info.quality) return;
    Forget(known->second);
  }
  if (info.bytes > options_.max_object_bytes) return;
  if (assemblies_.size() >= kMaxRemembered) Forget(assemblies_.begin());
  Assembly& added = assemblies_.emplace_back();
  added.key = key;
  added.meta = {.prefix_bytes = info.prefix_bytes, .quality = info.quality, .ttl = {}};
  added.object_bytes = info.bytes;
  if (info.ttl_left > base::Duration::zero()) added.expires = clock_.Now() + info.ttl_left;
  index_[key] = std::prev(assemblies_.end());
}

void ThreadedPromoter::Delivered(const StoreKey& key, uint64_t offset, const Slice& bytes, uint64_t epoch) {
  base::MutexLock lock(mutex_);
  const auto known = index_.find(key);
  if (shut_down_ || known == index_.end()) return;
  const Assemblies::iterator at = known->second;
  Assembly& assembly = *at;
  if (offset == 0) {
    if (assembly.next > 0 && bytes.size() <= assembly.next && assembly.epoch == epoch) {
      return;  // a second reader begins (or looks at the header again): the first one goes on
    }
    GiveUp(assembly);
    assembly.epoch = epoch;
  }
  if (offset != assembly.next) return;  // ahead or again; the part that is missing may still come
  if (assembly.epoch != epoch || bytes.size() > assembly.object_bytes - offset ||
      !MakeRoom(bytes.size(), assembly)) {
    GiveUp(assembly);
    return;
  }
  assembly.parts.push_back(bytes);
  assembly.next += bytes.size();
  assembly.last_part = clock_.Now();
  if (stats_.held_bytes == 0) changed_.NotifyAll();  // from now on something can become too old
  stats_.held_bytes += bytes.size();
  if (assembly.next < assembly.object_bytes) return;
  complete_.push_back(std::move(assembly));
  index_.erase(known);
  assemblies_.erase(at);
  changed_.NotifyAll();
}

std::optional<Assembly> ThreadedPromoter::Next() {
  base::MutexLock lock(mutex_);
  while (!shut_down_ && complete_.empty()) {
    const bool held = stats_.held_bytes > 0;
    changed_.WaitUntil(mutex_, held ? base::Clock::System().Now() + kLookInterval : base::kNoDeadline);
    GiveUpOld();
  }
  if (shut_down_) return std::nullopt;
  Assembly next = std::move(complete_.front());
  complete_.pop_front();
  busy_ = true;
  return next;
}

void ThreadedPromoter::Run() {
  while (std::optional<Assembly> next = Next()) {
    EntryMeta meta = next->meta;
    if (next->expires != kNever) meta.ttl = next->expires - clock_.Now();
    const bool alive = next->expires == kNever || meta.ttl > base::Duration::zero();
    if (alive) sink_(next->key, meta, Join(*next), next->epoch);
    base::MutexLock lock(mutex_);
    busy_ = false;
    stats_.held_bytes -= next->object_bytes;
    if (alive) ++stats_.handed_on;
    changed_.NotifyAll();
  }
}

base::Status ThreadedPromoter::Drain(base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  while (busy_ || !complete_.empty()) {
    if (shut_down_) return base::Cancelled("the store was shut down");
    if (!changed_.WaitUntil(mutex_, deadline) && (busy_ || !complete_.empty())) {
      return base::DeadlineExceeded("{} objects are still on their way to memory", complete_.size());
    }
  }
  return base::Status::Ok();
}

PromoterStats ThreadedPromoter::stats() const {
  base::MutexLock lock(mutex_);
  return stats_;
}

void ThreadedPromoter::Shutdown() {
  base::MutexLock lock(mutex_);
  shut_down_ = true;
  changed_.NotifyAll();
}

}  // namespace

std::unique_ptr<Promoter> Promoter::Create(base::Clock& clock, const PromoterOptions& options, Sink sink) {
  return std::make_unique<ThreadedPromoter>(clock, options, std::move(sink));
}

}  // namespace kvplane::store
