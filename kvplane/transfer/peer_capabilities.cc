#include "kvplane/transfer/peer_capabilities.h"

#include <algorithm>
#include <string_view>

#include "kvplane/codec/profile_match.h"
#include "kvplane/codec/stage_registry.h"
#include "kvplane/codec/tile_codec.h"

namespace kvplane::transfer {
namespace {

constexpr std::string_view kSoftware = "kvplane";

bool Contains(const std::vector<uint8_t>& ids, uint8_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

base::Status CheckField(uint64_t offered, uint64_t pulled, std::string_view field) {
  if (offered == pulled) return base::Status::Ok();
  return base::FailedPrecondition("{} differs: {} offered, {} pulled", field, offered, pulled);
}

}  // namespace

HelloFrame MakeHello(uint8_t role, uint64_t credit_bytes, const codec::ProfileSet& profiles) {
  HelloFrame hello;
  hello.role = role;
  hello.max_body_bytes = kMaxBodyBytes;
  hello.credit_bytes = credit_bytes;
  hello.dtypes = {static_cast<uint8_t>(tensor::DType::kBf16)};
  for (const codec::StageDescriptor& stage : codec::Stages()) hello.stage_ids.push_back(stage.id);
  hello.software = kSoftware;
  for (const auto& profile : profiles.all()) hello.profiles.push_back(profile->id());
  return hello;
}

base::Status CheckPeer(const HelloFrame& peer, const codec::Strategy& strategy, const TileGrid& grid,
                       const codec::ModelProfile* profile) {
  if (!Contains(peer.dtypes, static_cast<uint8_t>(grid.geometry.dtype))) {
    return base::Unimplemented("the decode node cannot take dtype {}", tensor::Name(grid.geometry.dtype));
  }
  for (const tensor::Side side : tensor::kSides) {
    for (const codec::StageCall& call : strategy.side(side).stages()) {
      if (!Contains(peer.stage_ids, call.stage_id)) {
        return base::Unimplemented("the decode node cannot run stage \"{}\"", codec::StageOf(call).name);
      }
    }
  }
  if (profile != nullptr &&
      std::find(peer.profiles.begin(), peer.profiles.end(), profile->id()) == peer.profiles.end()) {
    return base::FailedPrecondition(
        "the decode node has not loaded the profile {}, which the strategy \"{}\" needs (--profile)",
        profile->id().ToHex(), strategy.ToString());
  }
  // A coded tile is at most its raw bytes and the method byte.
  const codec::TileShape largest{std::min(tensor::kTileTokens, grid.tokens), grid.group_heads,
                                 grid.geometry.head_dim};
  if (largest.raw_bytes() + 1 > std::min(peer.max_body_bytes, kMaxBodyBytes)) {
    return base::Unimplemented("a tile of {} bytes is larger than the {} the decode node takes",
                               largest.raw_bytes() + 1, std::min(peer.max_body_bytes, kMaxBodyBytes));
  }
  return base::Status::Ok();
}

base::Result<std::shared_ptr<const codec::ModelProfile>> ProfileOf(
    const OpenFrame& open, std::span<const codec::Strategy> strategies, const KvDescriptor& descriptor,
    const codec::ProfileSet& loaded) {
  bool needed = false;
  for (const codec::Strategy& strategy : strategies) {
    needed = needed || strategy.needs_profile();
    if (strategy.needs_all_heads() &&
        (open.group_heads != descriptor.geometry.kv_heads || !descriptor.whole_model())) {
      return base::Corrupt("OPEN cuts {} KV heads into groups of {}, the strategy \"{}\" codes all together",
                           descriptor.ModelGeometry().kv_heads, open.group_heads, strategy.ToString());
    }
  }
  if (open.profile.none()) {
    if (needed) return base::Corrupt("OPEN names no profile, and a strategy of it needs one");
    return std::shared_ptr<const codec::ModelProfile>();
  }
  if (!needed) return base::Corrupt("OPEN names the profile {}, which nothing takes", open.profile.ToHex());
  std::shared_ptr<const codec::ModelProfile> profile = loaded.Find(open.profile);
  if (profile == nullptr) {
    return base::FailedPrecondition("the profile {} is not loaded here (--profile)", open.profile.ToHex());
  }
  KVPLANE_RETURN_IF_ERROR(
      codec::CheckProfileMatches(*profile, descriptor.ModelGeometry(), descriptor.model_fingerprint));
  return profile;
}

base::Status CheckSameKv(const KvDescriptor& offered, const KvDescriptor& pulled) {
  const tensor::KvGeometry& a = offered.geometry;
  const tensor::KvGeometry& b = pulled.geometry;
  KVPLANE_RETURN_IF_ERROR(CheckField(a.layers, b.layers, "layers"));
  KVPLANE_RETURN_IF_ERROR(CheckField(a.kv_heads, b.kv_heads, "kv_heads"));
  KVPLANE_RETURN_IF_ERROR(
      CheckField(offered.ModelGeometry().kv_heads, pulled.ModelGeometry().kv_heads, "kv_heads of the model"));
  KVPLANE_RETURN_IF_ERROR(CheckField(offered.first_head, pulled.first_head, "first_head"));
  KVPLANE_RETURN_IF_ERROR(CheckField(a.head_dim, b.head_dim, "head_dim"));
  if (a.dtype != b.dtype) {
    return base::FailedPrecondition("dtype differs: {} offered, {} pulled", tensor::Name(a.dtype),
                                    tensor::Name(b.dtype));
  }
  KVPLANE_RETURN_IF_ERROR(CheckField(offered.tokens, pulled.tokens, "tokens"));
  if (offered.model_fingerprint != pulled.model_fingerprint) {
    return base::FailedPrecondition("model_fingerprint differs: the nodes serve different models");
  }
  if (offered.token_hash != pulled.token_hash) {
    return base::FailedPrecondition("token_hash differs: the prompts are not the same");
  }
  return base::Status::Ok();
}

base::Status CheckTransferId(std::string_view id) {
  if (!id.empty() && id.size() <= kMaxTransferIdBytes) return base::Status::Ok();
  return base::InvalidArgument("transfer id of {} bytes; 1 to {} are possible", id.size(),
                               kMaxTransferIdBytes);
}

}  // namespace kvplane::transfer
