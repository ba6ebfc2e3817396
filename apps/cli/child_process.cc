#include "apps/cli/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

namespace kvplane::cli {
namespace {

constexpr size_t kMaxLineBytes = 1 << 20;
constexpr size_t kStderrTailBytes = 2000;

int ExitCodeOf(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

// Runs in the child between fork and exec: async-signal-safe calls only.
[[noreturn]] void ExecChild(char* const* argv, int stdout_fd, int stderr_fd, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(127);  // the parent died before prctl
  const int null_fd = open("/dev/null", O_RDONLY);
  dup2(null_fd, STDIN_FILENO);
  dup2(stdout_fd, STDOUT_FILENO);
  dup2(stderr_fd, STDERR_FILENO);
  execv(argv[0], argv);
  _exit(127);
}

}  // namespace

base::Result<ChildProcess> ChildProcess::Start(std::vector<std::string> argv,
                                               const std::string& stderr_path) {
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) return base::Internal("pipe: {}", std::strerror(errno));
  const int stderr_fd = open(stderr_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (stderr_fd < 0) {
    const int error = errno;
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return base::Internal("{}: {}", stderr_path, std::strerror(error));
  }
  std::vector<char*> raw;
  for (std::string& arg : argv) raw.push_back(arg.data());
  raw.push_back(nullptr);

  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) ExecChild(raw.data(), pipe_fds[1], stderr_fd, parent);
  const int error = errno;
  close(pipe_fds[1]);
  close(stderr_fd);
  if (pid < 0) {
    close(pipe_fds[0]);
    return base::Unavailable("cannot start {}: {}", argv[0], std::strerror(error));
  }
  ChildProcess child;
  child.pid_ = pid;
  child.stdout_fd_ = pipe_fds[0];
  child.stderr_path_ = stderr_path;
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept { *this = std::move(other); }

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(stdout_fd_, other.stdout_fd_);
  std::swap(buffered_, other.buffered_);
  std::swap(stderr_path_, other.stderr_path_);
  std::swap(exit_code_, other.exit_code_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0 && !exit_code_) Stop(base::Clock::System().Now() + std::chrono::seconds(3));
  if (stdout_fd_ >= 0) close(stdout_fd_);
}

base::Result<std::string> ChildProcess::ReadLine(base::TimePoint deadline) {
  while (true) {
    if (const size_t end = buffered_.find('\n'); end != std::string::npos) {
      std::string line = buffered_.substr(0, end);
      buffered_.erase(0, end + 1);
      return line;
    }
    if (buffered_.size() > kMaxLineBytes)
      return base::Corrupt("line of over {} bytes from a child", kMaxLineBytes);
    const base::Duration left = base::TimeLeft(base::Clock::System(), deadline, std::chrono::seconds(60));
    pollfd poll_fd{.fd = stdout_fd_, .events = POLLIN, .revents = 0};
    const int ready = poll(&poll_fd, 1, static_cast<int>(base::ToMillis(left)) + 1);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) {
      if (base::Clock::System().Now() < deadline) continue;
      return base::DeadlineExceeded("no line from child {} in time; its errors:\n{}", pid_, StderrTail());
    }
    char chunk[4096];
    const ssize_t count = read(stdout_fd_, chunk, sizeof chunk);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return base::Unavailable("child {} ended; its errors:\n{}", pid_, StderrTail());
    buffered_.append(chunk, static_cast<size_t>(count));
  }
}

std::optional<int> ChildProcess::Poll() {
  if (exit_code_ || pid_ <= 0) return exit_code_;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == pid_) exit_code_ = ExitCodeOf(status);
  return exit_code_;
}

void ChildProcess::Signal(int signal) {
  if (!Poll() && pid_ > 0) kill(pid_, signal);
}

int ChildProcess::Stop(base::TimePoint deadline) {
  Signal(SIGTERM);
  while (!Poll()) {
    if (base::Clock::System().Now() >= deadline) {
      Signal(SIGKILL);
      int status = 0;
      while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
      }
      exit_code_ = ExitCodeOf(status);
      break;
    }
    base::Clock::System().SleepUntil(base::Clock::System().Now() + std::chrono::milliseconds(5));
  }
  return *exit_code_;
}

std::string ChildProcess::StderrTail() const {
  std::ifstream file(stderr_path_);
  std::stringstream text;
  text << file.rdbuf();
  const std::string all = text.str();
  return all.size() <= kStderrTailBytes ? all : all.substr(all.size() - kStderrTailBytes);
}

base::Result<std::string> OwnExecutable() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) return base::Internal("/proc/self/exe: {}", std::strerror(errno));
  return std::string(path, static_cast<size_t>(length));
}

}  // namespace kvplane::cli
