// DiskStore: reading everything to find what has rotted before somebody needs it.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "kvplane/base/log.h"
#include "kvplane/codec/object.h"
#include "kvplane/store/disk_state.h"

namespace kvplane::store {
namespace {

// Between two rounds of the scrubber, so that a small folder is not read without end.
constexpr base::Duration kPauseBetweenRounds = std::chrono::minutes(10);

std::string Describe(const StoreKey& key, const base::Status& status) {
  std::string chain;
  for (size_t i = 0; i < 8; ++i) chain += fmt::format("{:02x}", static_cast<unsigned>(key.chain[i]));
  return fmt::format("tenant {:016x}, chain {}…: {}", key.tenant, chain, status.ToString());
}

}  // namespace

base::Status DiskStore::State::VerifyEntry(const StoreKey& key, DiskEntry& entry,
                                           std::vector<std::byte>& buffer) {
  {
    base::MutexLock lock(mutex);
    const DiskEntry* held = FindLive(key);
    if (held == nullptr) return base::NotFound("gone");
    entry = *held;
  }
  buffer.resize(entry.bytes);
  ChunkDb::Reader reader(*db);
  KVPLANE_RETURN_IF_ERROR(reader.Read(entry.sequence, entry.chunk_bytes, entry.bytes, 0, buffer));
  const auto object = codec::ObjectReader::Open(buffer);
  base::Status status = object.status();
  if (object.ok()) status = object->VerifyChecksums(buffer);
  // What a later version wrote cannot be judged here.
  if (status.code() == base::StatusCode::kUnimplemented) status = base::Status::Ok();
  if (!status.ok()) return base::Corrupt("{}", status.message());
  return base::Status::Ok();
}

// From the medium first: what fails is found again by the next round.
base::Status DiskStore::State::EraseDamaged(const StoreKey& key, uint64_t sequence,
                                            base::TimePoint deadline) {
  const auto result = std::make_shared<base::Status>();
  KVPLANE_RETURN_IF_ERROR(writer->Run(
      [this, result, key, sequence](const std::atomic<bool>&) {
        {
          base::MutexLock lock(mutex);
          const DiskEntry* held = index.Find(key);
          if (held == nullptr || held->sequence != sequence) return;  // only this thread replaces entries
        }
        *result = db->EraseEntries(std::span(&key, 1));
        if (!result->ok()) return;
        base::MutexLock lock(mutex);
        counters.corrupt += index.Erase(key, sequence);
      },
      deadline));
  return *result;
}

bool DiskStore::State::PauseUntil(base::TimePoint when) {
  base::MutexLock lock(keeper_mutex);
  while (!keeper_stopped && base::Clock::System().Now() < when) flushed.WaitUntil(keeper_mutex, when);
  return !keeper_stopped;
}

base::Result<ScrubReport> DiskStore::Scrub(const ScrubOptions& options) { return state_->Scrub(options); }

base::Result<ScrubReport> DiskStore::State::Scrub(const ScrubOptions& scrub) {
  if (scrub.repair) KVPLANE_RETURN_IF_ERROR(CheckWritable());
  const base::Clock& system = base::Clock::System();
  ScrubReport report;
  std::vector<std::byte> buffer;
  std::optional<StoreKey> at;
  base::TimePoint next = system.Now();
  for (;;) {
    {
      base::MutexLock lock(mutex);
      at = index.After(at);
    }
    if (!at) return report;
    KVPLANE_RETURN_IF_ERROR(CheckRunning());
    if (system.Now() >= scrub.deadline) return base::DeadlineExceeded("after {} entries", report.entries);
    DiskEntry entry;
    const base::Status verified = VerifyEntry(*at, entry, buffer);
    const base::StatusCode code = verified.code();
    if (code == base::StatusCode::kNotFound) continue;
    ++report.entries;
    report.bytes += verified.ok() ? entry.bytes : 0;
    report.damaged += code == base::StatusCode::kCorrupt;
    report.unreadable += !verified.ok() && code != base::StatusCode::kCorrupt;
    if (!verified.ok() && report.named.size() < scrub.max_named)
      report.named.push_back(Describe(*at, verified));
    if (code == base::StatusCode::kCorrupt && scrub.repair) {
      KVPLANE_RETURN_IF_ERROR(EraseDamaged(*at, entry.sequence, scrub.deadline));
    }
    if (scrub.bytes_per_s == 0) continue;
    next = std::max(next, system.Now()) +
           base::FromSeconds(static_cast<double>(buffer.size()) / static_cast<double>(scrub.bytes_per_s));
    if (!PauseUntil(std::min(next, scrub.deadline))) return base::Cancelled("the store was shut down");
  }
}

void DiskStore::State::KeepScrubbing() {
  for (;;) {
    const auto report = Scrub({.repair = true, .bytes_per_s = options.scrub_bytes_per_s});
    if (report.status().code() == base::StatusCode::kCancelled) return;
    if (!report.ok()) {
      base::Log(base::LogLevel::kWarn, "disk store {}: scrubbing ended early: {}", options.folder,
                report.status().ToString());
    } else if (report->damaged + report->unreadable != 0) {
      base::Log(base::LogLevel::kWarn, "disk store {}: scrubbed {} entries: {} damaged, {} unreadable",
                options.folder, report->entries, report->damaged, report->unreadable);
    }
    if (!PauseUntil(base::Clock::System().Now() + kPauseBetweenRounds)) return;
  }
}

}  // namespace kvplane::store
