// The bytes of a ModelProfile (docs/formats/profile.md is normative). Internal to the codec library; use
// ModelProfile::Create and ModelProfile::Parse.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"

namespace kvplane::codec {

// kInvalidArgument: sizes that contradict each other, values that are not finite or beyond their bounds.
base::Status ValidateProfile(const ModelProfileData& data);

// Length of the file. Requires: ValidateProfile(data).
size_t ProfileFileBytes(const ModelProfileData& data);

// Requires: ValidateProfile(data).
std::vector<std::byte> SerializeProfile(const ModelProfileData& data);

// Structure and checksum; the result still needs ValidateProfile. Takes no more memory than the bytes back.
base::Result<ModelProfileData> ReadProfile(std::span<const std::byte> bytes);

}  // namespace kvplane::codec
