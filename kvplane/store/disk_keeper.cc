// DiskStore's keeper: one thread that flushes for those who wait, follows what files that were dropped mean
// for the index, and tries to write again after a failure.
#include <algorithm>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/store/disk_state.h"

namespace kvplane::store {

base::Status DiskStore::State::WaitDurable(base::TimePoint deadline) {
  base::MutexLock lock(keeper_mutex);
  const uint64_t mine = ++flush_wanted;
  keeper_wake.NotifyOne();
  while (flush_answered < mine) {
    if (keeper_stopped) return base::Cancelled("the store was shut down");
    if (!flushed.WaitUntil(keeper_mutex, deadline) && flush_answered < mine) {
      return base::DeadlineExceeded("the disk did not flush in time");
    }
  }
  return flush_succeeded >= mine ? base::Status::Ok() : flush_status;
}

void DiskStore::State::FlushForWaiters() {
  uint64_t covers = 0;
  {
    base::MutexLock lock(keeper_mutex);
    covers = flush_wanted;
    if (covers == flush_answered) return;
  }
  const base::Status status = db->Flush();
  NoteWrite(status);
  {
    base::MutexLock lock(keeper_mutex);
    flush_answered = covers;
    if (status.ok()) flush_succeeded = covers;
    flush_status = status;
    flushed.NotifyAll();
  }
  if (!status.ok()) {
    base::MutexLock lock(mutex);
    ++counters.errors;
    return;
  }
  if (const base::Status merged = db->MergeSmallFiles(); !merged.ok()) {
    base::Log(base::LogLevel::kWarn, "disk store {}: {}", options.folder, merged.ToString());
  }
}

void DiskStore::State::FollowDroppedFiles() {
  {
    base::MutexLock lock(keeper_mutex);
    if (!std::exchange(files_changed, false)) return;
  }
  const uint64_t oldest = db->OldestSequence();
  std::vector<StoreKey> gone;
  {
    base::MutexLock lock(mutex);
    index.EvictBelow(oldest, gone);
    counters.evictions += gone.size();
  }
  if (gone.empty()) return;
  writer->Post([this, gone = std::move(gone)] { (void)EraseStale(gone); }, false);
}

void DiskStore::State::TryResume() {
  {
    base::MutexLock lock(keeper_mutex);
    if (write_failure.ok() || base::Clock::System().Now() < resume_at) return;
  }
  const base::Status status = db->Resume();
  base::MutexLock lock(keeper_mutex);
  if (status.ok()) {
    base::Log(base::LogLevel::kInfo, "disk store {}: the disk takes writes again", options.folder);
    write_failure = base::Status::Ok();
    return;
  }
  write_failure = status;
  resume_pause = std::min(2 * resume_pause, kMaxResumePause);
  resume_at = base::Clock::System().Now() + resume_pause;
}

void DiskStore::State::Keep() {
  for (;;) {
    {
      base::MutexLock lock(keeper_mutex);
      while (!keeper_stopped && flush_wanted == flush_answered && !files_changed &&
             (write_failure.ok() || base::Clock::System().Now() < resume_at)) {
        keeper_wake.WaitUntil(keeper_mutex, write_failure.ok() ? base::kNoDeadline : resume_at);
      }
      if (keeper_stopped) return;
    }
    FlushForWaiters();
    FollowDroppedFiles();
    TryResume();
  }
}

}  // namespace kvplane::store
