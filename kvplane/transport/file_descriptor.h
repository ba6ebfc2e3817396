// FileDescriptor owns one file descriptor; Wakeup is an eventfd that interrupts poll().
//
// Thread safety: FileDescriptor none; Wakeup::Raise() may be called from any thread at any time.
#pragma once

#include <atomic>
#include <utility>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"

namespace kvplane::transport {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// Once raised it stays raised: every later Wait() returns kCancelled at once.
class Wakeup {
 public:
  static base::Result<Wakeup> Create();
  Wakeup(Wakeup&& other) noexcept : event_(std::move(other.event_)), raised_(other.raised_.load()) {}

  void Raise();
  bool raised() const { return raised_.load(std::memory_order_acquire); }

  // Waits until `fd` has one of `events` (POLLIN, POLLOUT) or an error condition: OK. kDeadlineExceeded at
  // `deadline`, kCancelled when raised, kInternal when poll() itself fails. A negative `fd` only waits.
  base::Status Wait(int fd, short events, base::TimePoint deadline) const;

 private:
  explicit Wakeup(FileDescriptor event) : event_(std::move(event)) {}

  FileDescriptor event_;
  std::atomic<bool> raised_{false};
};

// Text of errno value `error`: "connection refused (111)".
std::string ErrnoText(int error);

}  // namespace kvplane::transport
