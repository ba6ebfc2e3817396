#include "apps/cli/node_process.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

namespace kvplane::cli {

base::Result<NodeProcess> NodeProcess::Launch(const std::string& role, const std::vector<std::string>& flags,
                                              const std::filesystem::path& logs) {
  KVPLANE_ASSIGN_OR_RETURN(const std::string self, OwnExecutable());
  std::vector<std::string> argv = {self};
  argv.insert(argv.end(), flags.begin(), flags.end());
  KVPLANE_ASSIGN_OR_RETURN(ChildProcess process,
                           ChildProcess::Start(std::move(argv), (logs / (role + ".log")).string()));
  return NodeProcess(role, std::move(process));
}

base::Status NodeProcess::AwaitReady(base::TimePoint deadline) {
  const base::Result<std::string> line = process_.ReadLine(deadline);
  if (!line.ok()) return line.status().Annotate(role_);
  const auto json = nlohmann::json::parse(*line, nullptr, false);
  if (!json.is_object() || json.value("event", "") != "ready") {
    return base::Internal("{}: expected a ready line, got '{}'", role_, *line);
  }
  for (const auto& [name, value] : json.items()) {
    if (value.is_string()) fields_.emplace_back(name, value.get<std::string>());
  }
  return base::Status::Ok();
}

std::string NodeProcess::field(const std::string& name) const {
  for (const auto& [found, value] : fields_) {
    if (found == name) return value;
  }
  return "";
}

base::Status NodeProcess::Stop(base::TimePoint deadline) {
  const int code = process_.Stop(deadline);
  if (code == 0) return base::Status::Ok();
  return base::Internal("the {} process ended with exit code {}", role_, code);
}

}  // namespace kvplane::cli
