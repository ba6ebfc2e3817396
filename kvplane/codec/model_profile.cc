#include "kvplane/codec/model_profile.h"

#include <fmt/format.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>

#include "kvplane/base/check.h"
#include "kvplane/codec/profile_format.h"

namespace kvplane::codec {
namespace {

ProfileId IdOf(std::span<const std::byte> bytes) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest);
  ProfileId id;
  std::memcpy(id.bytes.data(), digest, id.bytes.size());
  return id;
}

}  // namespace

std::string ProfileId::ToHex() const {
  std::string hex;
  for (const std::byte byte : bytes) hex += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return hex;
}

base::Result<std::shared_ptr<const ModelProfile>> ModelProfile::Create(ModelProfileData data) {
  KVPLANE_RETURN_IF_ERROR(ValidateProfile(data));
  std::vector<std::byte> bytes = SerializeProfile(data);
  const ProfileId id = IdOf(bytes);
  return std::shared_ptr<const ModelProfile>(new ModelProfile(std::move(data), std::move(bytes), id));
}

base::Result<std::shared_ptr<const ModelProfile>> ModelProfile::Parse(std::span<const std::byte> bytes) {
  auto data = ReadProfile(bytes);
  base::Status status = data.ok() ? ValidateProfile(*data) : data.status();
  // The rules are the same, but here it is the bytes that break them.
  if (status.code() == base::StatusCode::kInvalidArgument) {
    status = base::Status(base::StatusCode::kCorrupt, status.message());
  }
  if (!status.ok()) return status.Annotate("profile");
  std::vector<std::byte> kept(bytes.begin(), bytes.end());
  const ProfileId id = IdOf(kept);
  return std::shared_ptr<const ModelProfile>(new ModelProfile(*std::move(data), std::move(kept), id));
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
