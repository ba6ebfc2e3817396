#include "kvplane/server/text_worker.h"

#include <utility>

namespace kvplane::server {

TextWorker::~TextWorker() {
  std::deque<Job> dropped;  // destroyed outside the lock: they own requests
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    dropped.swap(jobs_);
    changed_.NotifyAll();
  }
  thread_.join();
}

bool TextWorker::Run(const std::shared_ptr<Exchange>& exchange, size_t bytes, std::function<void()> work,
                     std::function<void()> done) {
  if (bytes <= kShortTextBytes) {
    work();
    done();
    return true;
  }
  base::MutexLock lock(mutex_);
  if (open_bytes_ > 0 && (bytes > max_bytes_ || open_bytes_ > max_bytes_ - bytes)) return false;
  open_bytes_ += bytes;
  jobs_.push_back({exchange, bytes, std::move(work), std::move(done)});
  changed_.NotifyAll();
  return true;
}

void TextWorker::Loop() {
  while (true) {
    Job job;
    {
      base::MutexLock lock(mutex_);
      while (jobs_.empty() && !stopping_) changed_.Wait(mutex_);
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job.work();
    {
      base::MutexLock lock(mutex_);
      open_bytes_ -= job.bytes;
    }
    job.exchange->Post(std::move(job.done));
  }
}

}  // namespace kvplane::server
