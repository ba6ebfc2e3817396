#include "kvplane/codec/transform/profile_tables.h"

#include <algorithm>

#include "kvplane/base/check.h"

namespace kvplane::codec {
namespace {

struct Registered {
  std::weak_ptr<const ModelProfile> profile;
  const ModelProfile* address;
  std::shared_ptr<ProfileTables> tables;
};

struct Registry {
  base::Mutex mutex;
  std::vector<Registered> all KVPLANE_GUARDED_BY(mutex);
};

Registry& TheRegistry() {
  static Registry registry;
  return registry;
}

PackedBasis Pack(const ModelProfile& profile, const BasisKey& key) {
  const BasisData* basis = profile.basis(key.layer, key.space, key.basis);
  KVPLANE_CHECK(basis != nullptr);
  const tensor::KvGeometry& geometry = profile.data().geometry;
  const uint32_t heads = geometry.kv_heads;
  const uint32_t dim = geometry.head_dim;
  const uint32_t rank = basis->rank;
  const bool layer = key.basis == Basis::kLayer || key.basis == Basis::kLayerAttention;
  PackedBasis packed;
  if (key.way == ProjectionWay::kForward && layer) {
    packed.push_back(kernel::PackedMatrix::Pack(basis->forward.data(), heads * dim, rank, rank));
    return packed;
  }
  const size_t matrix = size_t{dim} * rank;
  for (uint32_t h = 0; h < heads; ++h) {
    if (key.way == ProjectionWay::kForward) {
      packed.push_back(kernel::PackedMatrix::Pack(basis->forward.data() + h * matrix, dim, rank, rank));
    } else if (layer) {
      const size_t stride = size_t{heads} * dim;
      packed.push_back(kernel::PackedMatrix::Pack(basis->inverse.data() + h * dim, rank, dim, stride));
    } else {
      packed.push_back(kernel::PackedMatrix::Pack(basis->inverse.data() + h * matrix, rank, dim, dim));
    }
  }
  return packed;
}

}  // namespace

std::shared_ptr<ProfileTables> ProfileTables::Of(const std::shared_ptr<const ModelProfile>& profile) {
  Registry& registry = TheRegistry();
  base::MutexLock lock(registry.mutex);
  std::erase_if(registry.all, [](const Registered& entry) { return entry.profile.expired(); });
  for (const Registered& entry : registry.all) {
    if (entry.address == profile.get()) return entry.tables;
  }
  auto tables = std::make_shared<ProfileTables>(*profile);
  registry.all.push_back({profile, profile.get(), tables});
  return tables;
}

ProfileTables::ProfileTables(const ModelProfile& profile) {
  if (profile.data().rope) rope_.emplace(*profile.data().rope);
}

std::shared_ptr<const PackedBasis> ProfileTables::Packed(const ModelProfile& profile, const BasisKey& key) {
  {
    base::MutexLock lock(mutex_);
    const auto found = packed_.find(key);
    if (found != packed_.end()) return found->second;
  }
  auto packed = std::make_shared<const PackedBasis>(Pack(profile, key));
  base::MutexLock lock(mutex_);
  return packed_.emplace(key, std::move(packed)).first->second;
}

}  // namespace kvplane::codec
