// TextWorker: where long texts are tokenized, so that the io thread, with its timers and health answers,
// never waits for them.
//
// Tokenizing takes O(n log n) of a text's bytes at worst: a text of model::kMaxTextBytes that is one word
// keeps a core busy for seconds, which a router would take for the silence of a node that has died. Short
// texts are encoded on the io thread all the same: that takes less than handing them over may, and they do
// not wait behind long ones.
//
// Thread safety: Run on the io thread; construction and destruction on any one.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "kvplane/base/mutex.h"
#include "kvplane/server/http_exchange.h"

namespace kvplane::server {

// Tokenized within milliseconds, whatever they say.
inline constexpr size_t kShortTextBytes = size_t{16} << 10;

class TextWorker {
 public:
  // `max_bytes`: of texts that wait or are being worked on. It bounds how long one may wait.
  explicit TextWorker(size_t max_bytes) : max_bytes_(max_bytes), thread_([this] { Loop(); }) {}
  // Lets the work at hand end and drops what waits.
  ~TextWorker();
  TextWorker(const TextWorker&) = delete;
  TextWorker& operator=(const TextWorker&) = delete;

  // Calls `work` for a text of `bytes`, then `done` on the io thread of `exchange`: both at once when the
  // text is short, otherwise `work` on the worker's thread, after what was given before. False, and neither
  // is ever called: too much is waiting. A text of any length is taken when nothing is.
  bool Run(const std::shared_ptr<Exchange>& exchange, size_t bytes, std::function<void()> work,
           std::function<void()> done);

 private:
  struct Job {
    std::shared_ptr<Exchange> exchange;
    size_t bytes = 0;
    std::function<void()> work;
    std::function<void()> done;
  };

  void Loop();

  const size_t max_bytes_;
  base::Mutex mutex_;
  base::CondVar changed_;
  std::deque<Job> jobs_ KVPLANE_GUARDED_BY(mutex_);
  size_t open_bytes_ KVPLANE_GUARDED_BY(mutex_) = 0;  // of jobs_ and of the one at work
  bool stopping_ KVPLANE_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace kvplane::server
