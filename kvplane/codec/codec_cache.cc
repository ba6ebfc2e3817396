#include "kvplane/codec/codec_cache.h"

namespace kvplane::codec {

base::Result<SideCodecs> CodecCache::Bind(const Strategy& strategy,
                                          std::shared_ptr<const ModelProfile> profile) {
  if (!strategy.needs_profile()) profile.reset();
  const Key key(strategy.ToString(), profile == nullptr ? ProfileId{} : profile->id());
  {
    base::MutexLock lock(mutex_);
    if (const auto found = by_key_.find(key); found != by_key_.end()) {
      entries_.splice(entries_.begin(), entries_, found->second);
      return found->second->codecs;
    }
  }
  SideCodecs codecs;
  for (const tensor::Side side : tensor::kSides) {
    KVPLANE_ASSIGN_OR_RETURN(codecs[static_cast<size_t>(side)],
                             TileCodec::Create(strategy.side(side), side, profile));
  }
  base::MutexLock lock(mutex_);
  // Another thread may have bound the same meanwhile: one of the two stays.
  if (by_key_.contains(key) || capacity_ == 0) return codecs;
  entries_.push_front({key, codecs});
  by_key_.emplace(key, entries_.begin());
  if (entries_.size() > capacity_) {
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
  return codecs;
}

size_t CodecCache::size() const {
  base::MutexLock lock(mutex_);
  return entries_.size();
}

}  // namespace kvplane::codec
