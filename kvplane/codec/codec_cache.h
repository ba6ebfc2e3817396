// CodecCache: bound strategies by text and profile, so that a node binds each of them once and not per
// request: binding unpacks bases and tables, which can take far longer than coding a tile.
//
// Bounded: it forgets the least recently used. Codecs in use live on with their users.
//
// Thread safety: all members may be called from any thread; binding runs outside the lock.
#pragma once

#include <array>
#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "kvplane/base/mutex.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/codec/tile_codec.h"

namespace kvplane::codec {

// Both sides of a strategy, by tensor::Side.
using SideCodecs = std::array<std::shared_ptr<const TileCodec>, 2>;

class CodecCache {
 public:
  // A node runs few strategies at a time; each may hold tens of megabytes of bases.
  static constexpr size_t kDefaultCapacity = 16;
  explicit CodecCache(size_t capacity = kDefaultCapacity) : capacity_(capacity) {}

  // What TileCodec::Create() gives for the two sides. Errors are not remembered.
  base::Result<SideCodecs> Bind(const Strategy& strategy, std::shared_ptr<const ModelProfile> profile)
      KVPLANE_EXCLUDES(mutex_);
  size_t size() const KVPLANE_EXCLUDES(mutex_);

 private:
  using Key = std::pair<std::string, ProfileId>;  // canonical text, profile (none: the strategy needs none)
  struct Entry {
    Key key;
    SideCodecs codecs;
  };

  const size_t capacity_;
  mutable base::Mutex mutex_;
  std::list<Entry> entries_ KVPLANE_GUARDED_BY(mutex_);  // most recently used first
  std::map<Key, std::list<Entry>::iterator> by_key_ KVPLANE_GUARDED_BY(mutex_);
};

}  // namespace kvplane::codec
