#include "kvplane/transport/file_descriptor.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

namespace kvplane::transport {

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

base::Result<Wakeup> Wakeup::Create() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return base::ResourceExhausted("eventfd: {}", ErrnoText(errno));
  return Wakeup(FileDescriptor(fd));
}

void Wakeup::Raise() {
  if (raised_.exchange(true, std::memory_order_acq_rel)) return;
  const uint64_t one = 1;
  // The only possible failure is a full counter, which already wakes every poll.
  while (::write(event_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

base::Status Wakeup::Wait(int fd, short events, base::TimePoint deadline) const {
  pollfd fds[2] = {{event_.get(), POLLIN, 0}, {fd, events, 0}};
  while (true) {
    if (raised()) return base::Cancelled("shut down");
    const base::Duration left = base::TimeLeft(base::Clock::System(), deadline);
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec timeout{seconds.count(), static_cast<long>((left - seconds).count())};
    const int ready = ::ppoll(fds, 2, &timeout, nullptr);
    if (ready < 0 && errno != EINTR) return base::Internal("poll: {}", ErrnoText(errno));
    if (ready > 0 && fds[1].revents != 0 && !raised()) return base::Status::Ok();
    if (ready == 0 && base::Clock::System().Now() >= deadline) {
      return base::DeadlineExceeded("the peer was not ready in time");
    }
  }
}

std::string ErrnoText(int error) {
  return fmt::format("{} ({})", std::generic_category().message(error), error);
}

}  // namespace kvplane::transport
