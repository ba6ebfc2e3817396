// Whether a profile was fitted on the model whose KV is to be coded: asked before a profile is used, where
// both are known (engine, transfer, command line).
//
// Thread safety: a pure function.
#pragma once

#include <array>
#include <cstddef>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// kFailedPrecondition names what differs: a number of the geometry, or the model's fingerprint where both
// sides know it (zero: unknown).
base::Status CheckProfileMatches(const ModelProfile& profile, const tensor::KvGeometry& geometry,
                                 const std::array<std::byte, 32>& model_fingerprint);

}  // namespace kvplane::codec
