// A token file for nodes that one process starts and nobody else is to talk to.
#pragma once

#include <filesystem>
#include <string>

#include "kvplane/base/status.h"

namespace kvplane::cli {

// Writes a random token to a new file in `folder` that only this user may read; returns its path.
base::Result<std::string> WriteOwnToken(const std::filesystem::path& folder);

}  // namespace kvplane::cli
