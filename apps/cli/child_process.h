// ChildProcess: a kvplane node started, watched and ended by another verb (demo, bench pd).
//
// The child gets its own process group and dies with its parent (PR_SET_PDEATHSIG), so that an interrupted
// demo leaves nothing running. Its standard output is a pipe to the parent (machine-readable lines), standard
// error goes to a file.
//
// Thread safety: none; the thread that calls Start must outlive the child (the kernel ties the death signal
// to it).
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"

namespace kvplane::cli {

class ChildProcess {
 public:
  // `argv[0]` is the path of the program. kUnavailable when it cannot be started.
  static base::Result<ChildProcess> Start(std::vector<std::string> argv, const std::string& stderr_path);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();  // Stop() with a short deadline

  // The next line of the child's standard output, without its newline. kUnavailable when the child has ended
  // (the message carries the end of its standard error), kDeadlineExceeded when no line came.
  base::Result<std::string> ReadLine(base::TimePoint deadline);

  // SIGTERM, then SIGKILL at the deadline; waits for the end. Returns the exit code, or 128 + signal.
  int Stop(base::TimePoint deadline);
  void Signal(int signal);
  // The exit code if the child has ended.
  std::optional<int> Poll();

  pid_t pid() const { return pid_; }

 private:
  ChildProcess() = default;
  std::string StderrTail() const;

  pid_t pid_ = -1;
  int stdout_fd_ = -1;
  std::string buffered_;
  std::string stderr_path_;
  std::optional<int> exit_code_;
};

// Path of the running executable, to start another verb of it.
base::Result<std::string> OwnExecutable();

}  // namespace kvplane::cli
