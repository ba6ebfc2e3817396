#include "apps/cli/reuse_bench/own_redis.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "kvplane/base/clock.h"

namespace kvplane::cli {
namespace {

constexpr base::Duration kStartTimeout = std::chrono::seconds(20);
constexpr base::Duration kStopTimeout = std::chrono::seconds(10);
constexpr int kNoSuchProgram = 127;  // of a shell

base::TimePoint After(base::Duration wait) { return base::Clock::System().Now() + wait; }

// A port that nobody has just now: redis-server cannot be told to choose one.
base::Result<uint16_t> FreePort() {
  const int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof(address);
  const bool found = probe >= 0 && bind(probe, generic, size) == 0 && getsockname(probe, generic, &size) == 0;
  const int error = errno;
  if (probe >= 0) close(probe);
  if (!found) return base::Unavailable("no free port: {}", std::strerror(error));
  return ntohs(address.sin_port);
}

}  // namespace

base::Result<OwnRedis> OwnRedis::Start(const std::filesystem::path& folder) {
  KVPLANE_ASSIGN_OR_RETURN(const uint16_t port, FreePort());
  // The shell looks the program up and becomes it.
  KVPLANE_ASSIGN_OR_RETURN(ChildProcess process,
                           ChildProcess::Start({"/bin/sh", "-c", "exec redis-server \"$@\"", "sh", "--port",
                                                std::to_string(port), "--bind", "127.0.0.1", "--dir",
                                                folder.string(), "--save", "", "--appendonly", "no"},
                                               (folder / "redis.log").string()));
  const base::TimePoint deadline = After(kStartTimeout);
  while (true) {
    const base::Result<std::string> line = process.ReadLine(deadline);
    if (!line.ok() && process.Stop(deadline) == kNoSuchProgram) {
      return base::NotFound("redis-server is not installed");
    }
    if (!line.ok()) return line.status().Annotate("redis-server");
    if (line->find("Ready to accept connections") != std::string::npos)
      return OwnRedis(std::move(process), port);
  }
}

std::string OwnRedis::spec() const { return fmt::format("redis://127.0.0.1:{}", port_); }

void OwnRedis::Stop() { process_.Stop(After(kStopTimeout)); }

}  // namespace kvplane::cli
