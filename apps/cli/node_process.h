// NodeProcess: a kvplane verb that serves (serve, route, store) as a child process of a benchmark, with the
// addresses its ready line names.
//
// Thread safety: none; see ChildProcess.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "apps/cli/child_process.h"
#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"

namespace kvplane::cli {

class NodeProcess {
 public:
  // Starts `kvplane FLAGS...`; its standard error goes to `role`.log in `logs`.
  static base::Result<NodeProcess> Launch(const std::string& role, const std::vector<std::string>& flags,
                                          const std::filesystem::path& logs);
  // Reads the ready line: one JSON object with "event": "ready". Errors name the role.
  base::Status AwaitReady(base::TimePoint deadline);

  const std::string& role() const { return role_; }
  // Text fields of the ready line, empty where it has none: "http", "kv", "store", "compute".
  std::string field(const std::string& name) const;
  std::string http() const { return field("http"); }  // "127.0.0.1:PORT"

  // SIGTERM, SIGKILL at the deadline. An error when the process did not end cleanly.
  base::Status Stop(base::TimePoint deadline);

 private:
  NodeProcess(std::string role, ChildProcess process)
      : role_(std::move(role)), process_(std::move(process)) {}

  std::string role_;
  ChildProcess process_;
  std::vector<std::pair<std::string, std::string>> fields_;
};

}  // namespace kvplane::cli
