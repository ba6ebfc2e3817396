// What every store must do, of stacks of one, two and three tiers.
#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/store/disk_store.h"
#include "kvplane/store/testing/store_conformance.h"
#include "kvplane/store/testing/temp_folder.h"
#include "kvplane/store/tiered_store.h"

namespace kvplane::store {
namespace {

std::unique_ptr<DramStore> Memory(uint64_t capacity, base::Clock& clock) {
  auto created = DramStore::Create({.capacity_bytes = capacity, .clock = &clock});
  KVPLANE_CHECK(created.ok());
  return *std::move(created);
}

class StackHarness final : public StoreHarness {
 public:
  StackHarness(uint64_t capacity, size_t lower_tiers) {
    TieredOptions options;
    options.dram = {.capacity_bytes = capacity, .clock = &clock_};
    for (size_t i = 0; i < lower_tiers; ++i) {
      SlowTier tier;
      tier.store = Memory(4ull << 30, clock_);
      tier.lookup_budget = tier.read_budget = std::chrono::seconds(30);
      options.tiers.push_back(std::move(tier));
    }
    auto created = TieredStore::Create(std::move(options));
    KVPLANE_CHECK(created.ok());
    store_ = *std::move(created);
  }
  Store& store() override { return *store_; }
  void Advance(base::Duration by) override { clock_.Advance(by); }

 private:
  base::ManualClock clock_;
  std::unique_ptr<TieredStore> store_;
};

// Memory over a disk; what is opened again has an empty memory.
class DiskStackHarness final : public StoreHarness {
 public:
  explicit DiskStackHarness(uint64_t capacity) : capacity_(capacity) { Open(); }
  Store& store() override { return *store_; }
  void Advance(base::Duration by) override { clock_.Advance(by); }
  void Reopen() override { Open(); }

 private:
  void Open() {
    store_.reset();
    DiskStoreOptions disk;
    disk.folder = folder_.path();
    disk.clock = &clock_;
    disk.flush_on_close = false;
    auto opened = DiskStore::Open(disk);
    KVPLANE_CHECK(opened.ok());
    TieredOptions options;
    options.dram = {.capacity_bytes = capacity_, .clock = &clock_};
    SlowTier tier;
    tier.store = *std::move(opened);
    tier.lookup_budget = std::chrono::seconds(30);  // a busy machine is no reason to fail
    tier.read_budget = std::chrono::seconds(30);
    options.tiers.push_back(std::move(tier));
    auto created = TieredStore::Create(std::move(options));
    KVPLANE_CHECK(created.ok());
    store_ = *std::move(created);
  }

  const uint64_t capacity_;
  TempFolder folder_;
  base::ManualClock clock_;
  std::unique_ptr<TieredStore> store_;
};

StoreCase DiskStackCase() {
  StoreCase out;
  out.name = "MemoryOverDisk";
  out.create = [](uint64_t capacity) { return std::make_unique<DiskStackHarness>(capacity); };
  out.bounded = false;
  out.stacked = true;
  out.durable = true;
  return out;
}

StoreCase StackCase(const char* name, size_t lower_tiers) {
  StoreCase out;
  out.name = name;
  out.create = [lower_tiers](uint64_t capacity) {
    return std::make_unique<StackHarness>(capacity, lower_tiers);
  };
  out.bounded = lower_tiers == 0;
  out.stacked = true;
  return out;
}

INSTANTIATE_TEST_SUITE_P(Tiered, StoreConformance,
                         ::testing::Values(StackCase("MemoryAlone", 0), StackCase("TwoTiers", 1),
                                           StackCase("ThreeTiers", 2), DiskStackCase()),
                         StoreCaseName);

}  // namespace
}  // namespace kvplane::store
