// RopeAngles: cosines and sines of the positions of a tile, worked out once and shared by heads, layers,
// tiles.
//
// As the model's own table has them (model/rope_table.h): angle = position * inverse frequency in binary32.
// Cosine and sine of that angle are worked out in binary64, rounded to binary32 and multiplied by the
// magnitude in binary32, so that the two ends of a transfer agree whatever their C libraries are.
//
// Rows come in blocks of positions that are made when first needed; the least recently used go when
// kMaxRopeBytes is reached (a row takes 60 times as long to make as to use). Thread safety: any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// Of all blocks of one RopeAngles: 65,536 positions of 128 rotated channels.
constexpr size_t kMaxRopeBytes = size_t{32} << 20;

class RopeAngles {
 public:
  // Positions of a block; a tile touches two at most.
  static constexpr uint32_t kBlockPositions = tensor::kTileTokens;
  using Block = std::vector<float>;  // [kBlockPositions, cos | sin, half]

  // The rows of a tile's tokens, held while this lives.
  class Rows {
   public:
    const float* const* data() const { return rows_.data(); }  // [tokens], each [2 * half]

   private:
    friend class RopeAngles;
    std::array<const float*, tensor::kTileTokens> rows_{};
    std::array<std::shared_ptr<const Block>, 2> held_;
  };

  explicit RopeAngles(RopeData rope) : rope_(std::move(rope)) {}

  uint32_t half() const { return static_cast<uint32_t>(rope_.inverse_frequencies.size()); }
  float magnitude() const { return rope_.magnitude; }

  // Requires: tokens <= kTileTokens.
  Rows At(uint32_t first_position, uint32_t tokens);

  size_t cached_bytes() const;  // what the kept blocks take

 private:
  struct Entry {
    std::shared_ptr<const Block> block;
    uint64_t last_use = 0;
  };

  size_t BlockBytes() const { return size_t{kBlockPositions} * 2 * half() * sizeof(float); }
  std::shared_ptr<const Block> Get(uint64_t index) KVPLANE_EXCLUDES(mutex_);
  std::shared_ptr<const Block> Make(uint64_t index) const;

  const RopeData rope_;
  mutable base::Mutex mutex_;
  std::unordered_map<uint64_t, Entry> blocks_ KVPLANE_GUARDED_BY(mutex_);
  uint64_t uses_ KVPLANE_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvplane::codec
