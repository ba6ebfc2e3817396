// LogFolder: a folder for the logs and files of a benchmark's child processes, kept when the run fails so
// that they can be read.
#pragma once

#include <stdlib.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include "kvplane/base/status.h"

namespace kvplane::cli {

class LogFolder {
 public:
  static base::Result<LogFolder> Create(std::string_view name) {
    std::string pattern = (std::filesystem::temp_directory_path() / (std::string(name) + "-XXXXXX")).string();
    if (mkdtemp(pattern.data()) == nullptr) return base::Internal("{}: {}", pattern, std::strerror(errno));
    LogFolder folder;
    folder.path_ = pattern;
    return folder;
  }

  const std::filesystem::path& path() const { return path_; }
  bool Empty() const {
    std::error_code ignored;
    return std::filesystem::is_empty(path_, ignored);
  }
  void Remove() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

 private:
  std::filesystem::path path_;
};

}  // namespace kvplane::cli
