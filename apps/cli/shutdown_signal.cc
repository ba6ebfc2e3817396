#include "apps/cli/shutdown_signal.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <utility>

#include "apps/cli/exit_code.h"

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
}

void ShutdownSignal::Watch(std::function<void()> on_first) {
  thread_ = std::thread([on_first = std::move(on_first)] {
    const sigset_t set = WatchedSignals();
    bool first = true;
    while (true) {
      int signal = 0;
      sigwait(&set, &signal);
      if (signal == WakeSignal()) return;
      if (!first) _exit(kExitFailed);
      first = false;
      on_first();
    }
  });
}

ShutdownSignal::~ShutdownSignal() {
  if (!thread_.joinable()) return;
  pthread_kill(thread_.native_handle(), WakeSignal());
  thread_.join();
}

}  // namespace kvplane::cli
