#include "kvplane/codec/profile_match.h"

namespace kvplane::codec {

base::Status CheckProfileMatches(const ModelProfile& profile, const tensor::KvGeometry& geometry,
                                 const std::array<std::byte, 32>& model_fingerprint) {
  const tensor::KvGeometry& fitted = profile.data().geometry;
  if (fitted.layers != geometry.layers || fitted.kv_heads != geometry.kv_heads ||
      fitted.head_dim != geometry.head_dim) {
    return base::FailedPrecondition(
        "profile {} is of another model: fitted on {} layers of {} KV heads with head_dim {}; here are {}, "
        "{} "
        "and {}",
        profile.id().ToHex(), fitted.layers, fitted.kv_heads, fitted.head_dim, geometry.layers,
        geometry.kv_heads, geometry.head_dim);
  }
  constexpr std::array<std::byte, 32> kUnknown{};
  const std::array<std::byte, 32>& known = profile.data().model_fingerprint;
  if (known != kUnknown && model_fingerprint != kUnknown && known != model_fingerprint) {
    return base::FailedPrecondition(
        "profile {} is of another model: the shapes agree, the fingerprints do not", profile.id().ToHex());
  }
  return base::Status::Ok();
}

}  // namespace kvplane::codec
