#include "kvplane/engine/inbox.h"

#include <utility>

namespace kvplane::engine {

void Inbox::Post(Message message) {
  base::MutexLock lock(mutex_);
  messages_.push_back(std::move(message));
  posted_.NotifyOne();
}

std::vector<Message> Inbox::Take(base::TimePoint until) {
  base::MutexLock lock(mutex_);
  while (messages_.empty() && base::Clock::System().Now() < until) posted_.WaitUntil(mutex_, until);
  return std::exchange(messages_, {});
}

}  // namespace kvplane::engine
