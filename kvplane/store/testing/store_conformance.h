// What every Store must do (store.h), as a GoogleTest suite that each tier instantiates with a way to make
// one:
//
//   INSTANTIATE_TEST_SUITE_P(Disk, StoreConformance, ::testing::Values(StoreCase{...}), StoreCaseName);
//
// StoreCaseName must be given: it is what makes the linker take the tests out of their library.
//
// Covered: put, lookup and ranged reads; the longest unbroken prefix; quality; misses; erasure and isolation
// of tenants; TTL; deadlines in the past; Shutdown() during calls; threads at once; empty and large objects;
// Quarantine(); counters; random operations against a model; and, where the case says that the store can do
// it: eviction, uses, pins, durability. The tests themselves are in conformance_{reads,lives,threads}.cc.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "kvplane/base/clock.h"
#include "kvplane/store/store.h"
#include "kvplane/store/testing/conformance_calls.h"

namespace kvplane::store {

// A fresh, empty store with whatever must live as long as it (a folder, a server, a clock).
class StoreHarness {
 public:
  virtual ~StoreHarness() = default;
  virtual Store& store() = 0;
  // Lets time pass for TTLs and pins: moves a ManualClock, or waits where the medium has its own time.
  virtual void Advance(base::Duration by) = 0;
  // Ends the store without Flush() or Shutdown() as far as it can be done inside a process, and opens it
  // again on the same medium. Called for durable cases only; store() is another object then.
  virtual void Reopen() {}
};

struct StoreCase {
  std::string name;  // letters and digits: part of the tests' names
  // `capacity_bytes`: what the store may keep at most, for cases with bounded = true.
  std::function<std::unique_ptr<StoreHarness>(uint64_t capacity_bytes)> create;

  bool bounded = true;         // holds capacity_bytes exactly: stats().bytes never exceeds it
  bool pins = true;            // Pin() works
  bool durable = false;        // what was put durable, or flushed, survives Reopen()
  bool counts_entries = true;  // stats().entries and bytes are exact, EraseTenant() says how many
  bool tells_ttl = true;       // EntryInfo::ttl_left is known
  bool stacked = false;        // several tiers in one: the tier of an EntryInfo is any of theirs
  base::Duration ttl = std::chrono::seconds(2);  // of the TTL tests; real time where Advance() waits
  uint64_t large_object_bytes = 8 << 20;
  size_t random_operations = 2000;
};

inline void PrintTo(const StoreCase& tested, std::ostream* out) { *out << tested.name; }
std::string StoreCaseName(const ::testing::TestParamInfo<StoreCase>& info);

class StoreConformance : public ::testing::TestWithParam<StoreCase>, public ConformanceCalls {
 protected:
  // Ample: nothing is evicted unless a test wants it.
  static constexpr uint64_t kAmpleBytes = 256 << 20;

  void SetUp() override { Create(kAmpleBytes); }
  void Create(uint64_t capacity_bytes);
  Store& store() { return harness_->store(); }

  std::unique_ptr<StoreHarness> harness_;
};

}  // namespace kvplane::store
