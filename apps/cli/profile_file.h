// Profiles as files: read whole within the format's bound, checked, and written so that a reader never sees
// half of one.
//
// Thread safety: pure functions.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"

namespace kvplane::cli {

// kNotFound: no such file; kUnavailable: it cannot be read; kCorrupt, kUnimplemented, kResourceExhausted as
// ModelProfile::Parse, with the path.
base::Result<std::shared_ptr<const codec::ModelProfile>> ReadProfileFile(const std::filesystem::path& path);

// The profiles of all files, in their order; the same profile twice counts once.
base::Result<codec::ProfileSet> ReadProfileFiles(std::span<const std::string> paths);

// Writes beside `path`, then renames. kUnavailable: it cannot be written.
base::Status WriteProfileFile(const codec::ModelProfile& profile, const std::filesystem::path& path);

}  // namespace kvplane::cli
