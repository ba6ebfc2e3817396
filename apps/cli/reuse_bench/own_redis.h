// OwnRedis: a redis-server of a bench's own, on loopback and in memory, for the row of that tier.
//
// Thread safety: none; see ChildProcess.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "apps/cli/child_process.h"
#include "kvplane/base/status.h"

namespace kvplane::cli {

class OwnRedis {
 public:
  // Ready when it returns; its log goes into `folder`. kNotFound where redis-server is not installed.
  static base::Result<OwnRedis> Start(const std::filesystem::path& folder);

  std::string spec() const;  // "redis://127.0.0.1:PORT"
  // Ends it. It keeps nothing.
  void Stop();

 private:
  OwnRedis(ChildProcess process, uint16_t port) : process_(std::move(process)), port_(port) {}

  ChildProcess process_;
  uint16_t port_;
};

}  // namespace kvplane::cli
