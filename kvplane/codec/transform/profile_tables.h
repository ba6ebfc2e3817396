// ProfileTables: what transforms work out of a profile once: RoPE rows and packed bases.
//
// One for each profile and process, shared by all codecs bound to it: codecs come and go with requests, the
// packing of a large basis should not. It lives as long as the profile (and goes when the next profile is
// bound). Packed bases take as much memory as the profile's own, each when first used.
//
// Thread safety: any thread.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/transform/rope_angles.h"
#include "kvplane/kernel/project/project.h"

namespace kvplane::codec {

enum class ProjectionWay : uint8_t { kForward, kInverse };

struct BasisKey {
  uint32_t layer = 0;
  KvSpace space = KvSpace::kValue;
  Basis basis = Basis::kHead;
  ProjectionWay way = ProjectionWay::kForward;
  auto operator<=>(const BasisKey&) const = default;
};

// Of a basis per head: one matrix per KV head, [head_dim, rank] or [rank, head_dim]. Of a basis over a layer:
// forward [kv_heads * head_dim, rank]; inverse one [rank, head_dim] per KV head.
using PackedBasis = std::vector<kernel::PackedMatrix>;

class ProfileTables {
 public:
  // The tables of the profile; made when it has none yet.
  static std::shared_ptr<ProfileTables> Of(const std::shared_ptr<const ModelProfile>& profile);

  explicit ProfileTables(const ModelProfile& profile);

  RopeAngles* rope() { return rope_ ? &*rope_ : nullptr; }  // null: the model does not rotate

  // Requires: `profile` is the one these tables belong to and holds the basis.
  std::shared_ptr<const PackedBasis> Packed(const ModelProfile& profile, const BasisKey& key);

 private:
  std::optional<RopeAngles> rope_;
  base::Mutex mutex_;
  std::map<BasisKey, std::shared_ptr<const PackedBasis>> packed_ KVPLANE_GUARDED_BY(mutex_);
};

}  // namespace kvplane::codec
