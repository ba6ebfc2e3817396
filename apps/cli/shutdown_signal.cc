#include "apps/cli/shutdown_signal.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <utility>

#include "apps/cli/exit_code.h"
#include "kvplane/base/log.h"

namespace kvplane::cli {
namespace {

// Ends the watching thread; a real-time signal nothing else here uses.
int WakeSignal() { return SIGRTMIN; }

sigset_t WatchedSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, WakeSignal());
  return set;
}

}  // namespace

ShutdownSignal::ShutdownSignal() {
  const sigset_t set = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { Run(); });
}

void ShutdownSignal::Run() {
  const sigset_t set = WatchedSignals();
  for (bool first = true;; first = false) {
    int signal = 0;
    sigwait(&set, &signal);
    if (signal == WakeSignal()) return;
    if (!first) _exit(kExitFailed);
    Raise();
  }
}

void ShutdownSignal::Raise() {
  base::MutexLock lock(mutex_);
  raised_ = true;
  if (on_first_) return on_first_();
  base::Log(base::LogLevel::kInfo, "told to stop: as soon as the start is over; a second signal ends it now");
}

void ShutdownSignal::Watch(std::function<void()> on_first) {
  base::MutexLock lock(mutex_);
  if (raised_) return on_first();
  on_first_ = std::move(on_first);
}

ShutdownSignal::~ShutdownSignal() {
  pthread_kill(thread_.native_handle(), WakeSignal());
  thread_.join();
}

}  // namespace kvplane::cli
