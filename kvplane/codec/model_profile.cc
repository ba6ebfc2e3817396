#include "kvplane/codec/model_profile.h"

#include <fmt/format.h>

#include <algorithm>

#include "kvplane/base/check.h"

namespace kvplane::codec {

std::string ProfileId::ToHex() const {
  std::string hex;
  for (const std::byte byte : bytes) hex += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return hex;
}

const SpaceData* ModelProfile::space(uint32_t layer, KvSpace space) const {
  KVPLANE_CHECK(layer < data_.layers.size());
  const std::optional<SpaceData>& found = data_.layers[layer][static_cast<size_t>(space)];
  return found ? &*found : nullptr;
}

const BasisData* ModelProfile::basis(uint32_t layer, KvSpace space, Basis basis) const {
  const SpaceData* data = this->space(layer, space);
  if (data == nullptr || !data->bases[static_cast<size_t>(basis)]) return nullptr;
  return &*data->bases[static_cast<size_t>(basis)];
}

void ProfileSet::Add(std::shared_ptr<const ModelProfile> profile) {
  if (Find(profile->id()) == nullptr) profiles_.push_back(std::move(profile));
}

std::shared_ptr<const ModelProfile> ProfileSet::Find(const ProfileId& id) const {
  const auto at = std::find_if(profiles_.begin(), profiles_.end(),
                               [&id](const auto& profile) { return profile->id() == id; });
  return at == profiles_.end() ? nullptr : *at;
}

}  // namespace kvplane::codec
