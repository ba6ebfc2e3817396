// What a disk and a process can do to the disk tier: be killed, be full, rot.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "kvplane/base/rng.h"
#include "kvplane/store/disk_store.h"
#include "kvplane/store/testing/numbered_object.h"
#include "kvplane/store/testing/temp_folder.h"

extern char** environ;

namespace kvplane::store {
namespace {

namespace fs = std::filesystem;
using base::StatusCode;

base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(60); }

base::Status PutNumbered(Store& store, uint64_t number, uint32_t layers, bool durable = false) {
  return store.Put(NumberedKey(number), {.prefix_bytes = 0, .quality = kLossless, .ttl = {}},
                   Slice::Own(NumberedObject(number, layers)), {.durable = durable}, Soon());
}

base::Result<Slice> ReadNumbered(Store& store, uint64_t number) {
  const ReadRequest request{.key = NumberedKey(number), .offset = 0, .bytes = 0};
  return std::move(store.Read(std::span(&request, 1), Soon())[0]);
}

std::unique_ptr<DiskStore> OpenAt(const std::string& folder, DiskStoreOptions options = {}) {
  options.folder = folder;
  auto opened = DiskStore::Open(options);
  EXPECT_TRUE(opened.ok()) << opened.status().ToString();
  return opened.ok() ? *std::move(opened) : nullptr;
}

// A disk_writer on `folder`; its lines come through a pipe.
class WriterProcess {
 public:
  explicit WriterProcess(const std::string& folder) {
    int ends[2];
    KVPLANE_CHECK(::pipe2(ends, O_CLOEXEC) == 0);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    std::string program = KVPLANE_DISK_WRITER;
    std::string argument = folder;
    char* arguments[] = {program.data(), argument.data(), nullptr};
    KVPLANE_CHECK(::posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ) == 0);
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    lines_ = ::fdopen(ends[0], "r");
  }
  ~WriterProcess() {
    Kill();
    ::fclose(lines_);
  }

  // False at the end of its output.
  bool NextLine(bool& durable, uint64_t& number) {
    char text[64];
    if (::fgets(text, sizeof(text), lines_) == nullptr) return false;
    const std::string line(text);
    durable = line.starts_with("durable ");
    number = std::stoull(line.substr(line.find(' ') + 1));
    return true;
  }
  void Kill() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
  FILE* lines_ = nullptr;
};

// Killed in the middle of puts, again and again on one folder: what was promised is there byte for byte, the
// rest is whole or not there.
TEST(DiskFaultsTest, KilledUnderLoadKeepsWhatWasPromisedSafety) {
  TempFolder folder;
  std::set<uint64_t> promised;
  uint64_t seen = 0;
  for (const size_t promises : {1u, 10u, 40u, 25u}) {
    {
      WriterProcess writer(folder.path());
      bool durable = false;
      uint64_t number = 0;
      for (size_t got = 0; got < promises && writer.NextLine(durable, number);) {
        if (durable) promised.insert(number);
        got += durable ? 1 : 0;
        seen = std::max(seen, number);
      }
      writer.Kill();
      // What it said before it died counts as well.
      while (writer.NextLine(durable, number)) {
        if (durable) promised.insert(number);
        seen = std::max(seen, number);
      }
    }
    const auto store = OpenAt(folder.path(), {.folder = {}, .capacity_bytes = 1 << 30});
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(store->opening_damage(), "");
    size_t found = 0;
    for (uint64_t number = 0; number <= seen + 100; ++number) {
      const auto read = ReadNumbered(*store, number);
      if (!read.ok()) {
        EXPECT_EQ(read.status().code(), StatusCode::kNotFound) << read.status().ToString();
        EXPECT_FALSE(promised.contains(number)) << number;
        continue;
      }
      ++found;
      EXPECT_TRUE(std::ranges::equal(read->bytes(), NumberedObject(number, NumberedLayers(number))))
          << number;
    }
    EXPECT_GE(found, promised.size());
    EXPECT_EQ(store->stats().entries, found);
    EXPECT_EQ(store->stats().corrupt, 0u);
  }
  EXPECT_GE(promised.size(), 76u);
}

// A store of 200 objects whose files a test may damage. A small budget makes several files of it.
class DamagedFolder : public ::testing::Test {
 protected:
  static constexpr uint64_t kObjects = 200;
  static constexpr uint32_t kLayers = 8;

  void SetUp() override {
    const auto store = OpenAt(folder_.path(), options_);
    ASSERT_NE(store, nullptr);
    for (uint64_t i = 0; i < kObjects; ++i) ASSERT_TRUE(PutNumbered(*store, i, kLayers).ok());
  }

  std::vector<fs::path> Files(std::string_view part, uint64_t min_bytes = 0) {
    std::vector<fs::path> files;
    for (const auto& file : fs::directory_iterator(folder_.path() + "/rocksdb")) {
      const std::string name = file.path().filename().string();
      if (name.find(part) != std::string::npos && file.file_size() >= min_bytes) files.push_back(file.path());
    }
    std::ranges::sort(files);
    return files;
  }

  static void Flip(const fs::path& path, uint64_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const int byte = file.get();
    ASSERT_NE(byte, EOF);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(byte ^ 0x10));
  }

  // Files of entries hold record headers; the first block of one of them is hit.
  void DamageEntries() {
    for (const fs::path& path : Files(".sst")) {
      std::ifstream file(path, std::ios::binary);
      const std::string content(std::istreambuf_iterator<char>(file), {});
      const size_t at = content.find("KVPR");
      if (at == std::string::npos) continue;
      Flip(path, at + 20);
      return;
    }
    FAIL() << "no file of entries";
  }

  // Opens what is left: every object is right or gone, and stays gone. Returns how many are right.
  size_t CountIntact() {
    const auto store = OpenAt(folder_.path(), options_);
    if (store == nullptr) return 0;
    damage_ = store->opening_damage();
    size_t intact = 0;
    for (uint64_t i = 0; i < kObjects; ++i) {
      const auto read = ReadNumbered(*store, i);
      if (read.ok()) {
        ++intact;
        EXPECT_TRUE(std::ranges::equal(read->bytes(), NumberedObject(i, kLayers))) << i;
      } else {
        EXPECT_EQ(ReadNumbered(*store, i).status().code(), StatusCode::kNotFound) << i;
      }
    }
    const StoreStats stats = store->stats();
    corrupt_ = stats.corrupt;
    EXPECT_EQ(stats.entries, intact);
    // It is a working store.
    EXPECT_TRUE(PutNumbered(*store, kObjects + 1, 4, true).ok());
    EXPECT_TRUE(ReadNumbered(*store, kObjects + 1).ok());
    EXPECT_TRUE(store->Erase(NumberedKey(kObjects + 1), Soon()).ok());
    return intact;
  }

  TempFolder folder_;
  DiskStoreOptions options_{.folder = {}, .capacity_bytes = 64 << 20};
  std::string damage_;
  uint64_t corrupt_ = 0;
};

TEST_F(DamagedFolder, FlippedBytesAreNeverServedSafety) {
  const auto files = Files(".sst", 1 << 18);
  ASSERT_GE(files.size(), 8u);
  for (size_t i = 0; i < 5; ++i) Flip(files[i], fs::file_size(files[i]) / 2);
  const size_t intact = CountIntact();
  EXPECT_EQ(intact, kObjects - 5) << "one block each";
  EXPECT_EQ(corrupt_, 5u);
  EXPECT_EQ(CountIntact(), intact);
  EXPECT_EQ(corrupt_, 0u) << "quarantined for good";
}

TEST_F(DamagedFolder, ScrubbingFindsWhatNobodyReadSafety) {
  const auto files = Files(".sst", 1 << 18);
  for (size_t i = 0; i < 3; ++i) Flip(files[i], fs::file_size(files[i]) / 2);
  {
    const auto store = OpenAt(folder_.path(), options_);
    ASSERT_NE(store, nullptr);
    // An object that was damaged before it came here: the medium keeps it faithfully.
    std::vector<std::byte> bad = NumberedObject(500, kLayers);
    bad[bad.size() / 2] ^= std::byte{1};
    ASSERT_TRUE(store->Put(NumberedKey(500), {}, Slice::Own(bad), {}, Soon()).ok());
    auto report = store->Scrub({.repair = false});
    ASSERT_TRUE(report.ok()) << report.status().ToString();
    EXPECT_EQ(report->entries, kObjects + 1);
    EXPECT_EQ(report->damaged, 4u);
    EXPECT_THAT(report->named, ::testing::SizeIs(4));
    EXPECT_EQ(store->stats().entries, kObjects + 1);
    report = store->Scrub({.repair = true});
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->damaged, 4u);
    EXPECT_EQ(store->stats().entries, kObjects - 3);
    EXPECT_EQ(store->stats().corrupt, 4u);
    report = store->Scrub({});
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->damaged, 0u);
  }
  EXPECT_EQ(CountIntact(), kObjects - 3);
}

TEST_F(DamagedFolder, TheBackgroundScrubberRepairsSafety) {
  const auto files = Files(".sst", 1 << 18);
  for (size_t i = 0; i < 3; ++i) Flip(files[i], fs::file_size(files[i]) / 2);
  DiskStoreOptions scrubbing = options_;
  scrubbing.scrub_bytes_per_s = 1'000'000'000;
  const auto store = OpenAt(folder_.path(), scrubbing);
  ASSERT_NE(store, nullptr);
  const auto give_up = Soon();
  while (store->stats().corrupt < 3 && base::Clock::System().Now() < give_up) std::this_thread::yield();
  EXPECT_EQ(store->stats().corrupt, 3u);
  EXPECT_EQ(store->stats().entries, kObjects - 3);
}

TEST_F(DamagedFolder, LostAndCutFilesCostTheirEntriesSafety) {
  const auto files = Files(".sst", 1 << 18);
  ASSERT_GE(files.size(), 8u);
  fs::remove(files[1]);
  fs::resize_file(files[3], fs::file_size(files[3]) / 2);
  const size_t intact = CountIntact();
  EXPECT_LT(intact, kObjects);
  EXPECT_GT(intact, kObjects / 2);
  EXPECT_EQ(corrupt_, kObjects - intact);
  EXPECT_NE(damage_, "");
}

TEST_F(DamagedFolder, ADamagedEndOfAFileCostsItsEntriesSafety) {
  const auto files = Files(".sst", 1 << 18);
  Flip(files[2], fs::file_size(files[2]) - 8);  // the magic number
  const size_t intact = CountIntact();
  EXPECT_LT(intact, kObjects);
  EXPECT_GT(intact, kObjects / 2);
}

TEST_F(DamagedFolder, DamagedEntriesAreLeftOutOnceSafety) {
  DamageEntries();
  const size_t intact = CountIntact();
  EXPECT_LT(intact, kObjects);
  EXPECT_GT(corrupt_, 0u);
  EXPECT_NE(damage_, "");
  EXPECT_EQ(CountIntact(), intact);
  EXPECT_EQ(damage_, "") << "what is left was written anew";
}

// The same again and again, and a process that dies before the entries it rewrites are all there.
TEST_F(DamagedFolder, RewritingEntriesThatWasInterruptedIsBegunAgainSafety) {
  DamageEntries();
  const size_t intact = CountIntact();
  EXPECT_NE(damage_, "");
  {
    rocksdb::ColumnFamilyOptions as_it_is;
    as_it_is.disable_auto_compactions = true;
    rocksdb::DB* db = nullptr;
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    const auto opened = rocksdb::DB::Open({}, folder_.path() + "/rocksdb",
                                          {{"default", as_it_is}, {"entries.1", as_it_is}}, &handles, &db);
    ASSERT_TRUE(opened.ok()) << opened.ToString();
    handles.emplace_back();
    ASSERT_TRUE(db->CreateColumnFamily(as_it_is, "entries.2", &handles.back()).ok());
    for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
    delete db;
  }
  EXPECT_EQ(CountIntact(), intact);
  EXPECT_EQ(damage_, "");
  DamageEntries();
  const size_t left = CountIntact();
  EXPECT_LT(left, intact);
  EXPECT_NE(damage_, "");
  EXPECT_EQ(CountIntact(), left);
  EXPECT_EQ(damage_, "");
}

TEST_F(DamagedFolder, AnUnreadableDatabaseIsBegunAnewSafety) {
  const auto manifests = Files("MANIFEST");
  ASSERT_EQ(manifests.size(), 1u);
  Flip(manifests[0], fs::file_size(manifests[0]) / 2);
  EXPECT_EQ(CountIntact(), 0u);
  EXPECT_NE(damage_, "");
  EXPECT_TRUE(fs::exists(folder_.path() + "/damaged"));
}

TEST_F(DamagedFolder, ALostCurrentFileIsSaidSafety) {
  fs::remove(folder_.path() + "/rocksdb/CURRENT");
  EXPECT_EQ(CountIntact(), 0u);
  EXPECT_NE(damage_, "");
}

// Who only looks, however damaged the folder is, leaves every file of the database as it was.
class LookedAtFolder : public DamagedFolder {
 protected:
  std::map<std::string, std::string> Contents() {
    std::map<std::string, std::string> contents;
    for (const fs::path& path : Files("")) {
      const std::string name = path.filename().string();
      if (name.starts_with("LOG")) continue;  // RocksDB's own notes, for people
      std::ifstream file(path, std::ios::binary);
      contents[name] = std::string(std::istreambuf_iterator<char>(file), {});
    }
    return contents;
  }
  base::Result<std::unique_ptr<DiskStore>> Look() {
    return DiskStore::Open(
        {.folder = folder_.path(), .capacity_bytes = 1ull << 60, .create = false, .read_only = true});
  }
  // Twice: what was found must be there to be found again.
  void ExpectLossFoundAndNothingChanged() {
    const auto before = Contents();
    for (int round = 0; round < 2; ++round) {
      const auto store = Look();
      ASSERT_TRUE(store.ok()) << store.status().ToString();
      const StoreStats stats = (*store)->stats();
      EXPECT_GT(stats.corrupt, 0u);
      EXPECT_LT(stats.entries, kObjects);
      EXPECT_NE((*store)->opening_damage(), "");
      const auto report = (*store)->Scrub({.repair = false});
      ASSERT_TRUE(report.ok()) << report.status().ToString();
      EXPECT_EQ(report->entries, stats.entries);
      EXPECT_EQ((*store)->Scrub({.repair = true}).status().code(), StatusCode::kFailedPrecondition);
      EXPECT_EQ(PutNumbered(**store, kObjects + 1, 4).code(), StatusCode::kFailedPrecondition);
      EXPECT_EQ((*store)->Erase(NumberedKey(0), Soon()).code(), StatusCode::kFailedPrecondition);
      EXPECT_EQ((*store)->EraseTenant(0, Soon()).status().code(), StatusCode::kFailedPrecondition);
      EXPECT_TRUE((*store)->Flush(Soon()).ok());
    }
    EXPECT_TRUE(Contents() == before);
  }
};

TEST_F(LookedAtFolder, KeepsTheEntriesOfLostFilesSafety) {
  const auto files = Files(".sst", 1 << 18);
  ASSERT_GE(files.size(), 8u);
  fs::remove(files[1]);
  fs::resize_file(files[3], fs::file_size(files[3]) / 2);
  ExpectLossFoundAndNothingChanged();
}

TEST_F(LookedAtFolder, KeepsDamagedEntriesSafety) {
  DamageEntries();
  ExpectLossFoundAndNothingChanged();
}

TEST_F(LookedAtFolder, KeepsWhatLiesBesideALostCurrentFileSafety) {
  fs::remove(folder_.path() + "/rocksdb/CURRENT");
  const auto before = Contents();
  EXPECT_EQ(Look().status().code(), StatusCode::kCorrupt);
  DiskStoreOptions repairing = options_;
  repairing.folder = folder_.path();
  repairing.create = false;
  EXPECT_EQ(DiskStore::Open(repairing).status().code(), StatusCode::kCorrupt);
  EXPECT_TRUE(Contents() == before);
  EXPECT_FALSE(fs::exists(folder_.path() + "/damaged"));
}

// Anything anywhere: the store opens, serves only what is right, and works.
TEST_F(DamagedFolder, RandomDamageProperty) {
  base::Rng rng(5);
  for (int round = 0; round < 8; ++round) {
    for (int flips = 0; flips < 4; ++flips) {
      const auto files = Files("", 1);
      const fs::path& file = files[rng.Below(files.size())];
      Flip(file, rng.Below(fs::file_size(file)));
    }
    CountIntact();
    if (HasFailure()) FAIL() << "in round " << round;
  }
}

// A file system of 48 MB, where the machine lets us mount one.
class FullDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::mount("kvplane-test", folder_.path().c_str(), "tmpfs", 0, "size=48m") != 0) {
      GTEST_SKIP() << "mounting a tmpfs is not allowed here";
    }
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }
  void FillWith(uint64_t bytes) { std::ofstream(folder_.path() + "/ballast") << std::string(bytes, 'x'); }

  TempFolder folder_;
  bool mounted_ = false;
};

TEST_F(FullDisk, ABudgetAboveTheDiskIsCutToItSafety) {
  const auto store = OpenAt(folder_.path(), {.folder = {}, .capacity_bytes = 1ull << 40});
  ASSERT_NE(store, nullptr);
  EXPECT_LT(store->stats().capacity_bytes, 48u << 20);
}

TEST_F(FullDisk, LookingIntoAFullOneDropsNothingSafety) {
  constexpr uint64_t kObjects = 40;
  {
    const auto store = OpenAt(folder_.path(), {.folder = {}, .capacity_bytes = 256 << 20});
    ASSERT_NE(store, nullptr);
    for (uint64_t i = 0; i < kObjects; ++i) ASSERT_TRUE(PutNumbered(*store, i, 64, true).ok());
  }
  const fs::space_info space = fs::space(folder_.path());
  FillWith(space.available - (1 << 20));
  for (const bool read_only : {true, false}) {
    for (int round = 0; round < 2; ++round) {
      const auto store =
          OpenAt(folder_.path(),
                 {.folder = {}, .capacity_bytes = 1ull << 60, .create = false, .read_only = read_only});
      ASSERT_NE(store, nullptr);
      EXPECT_TRUE(store->Flush(Soon()).ok());
      EXPECT_EQ(store->stats().capacity_bytes, 1ull << 60);
      EXPECT_EQ(store->stats().entries, kObjects);
      for (uint64_t i = 0; i < kObjects; ++i) EXPECT_TRUE(ReadNumbered(*store, i).ok()) << i;
    }
  }
}

TEST_F(FullDisk, TheOldestGoWhenTheDiskIsSmallerThanTheBudgetSafety) {
  const auto store = OpenAt(folder_.path(), {.folder = {}, .capacity_bytes = 256 << 20});
  ASSERT_NE(store, nullptr);
  for (uint64_t i = 0; i < 200; ++i) {
    const base::Status status = PutNumbered(*store, i, 64, i % 8 == 0);
    ASSERT_TRUE(status.ok()) << i << ": " << status.ToString();
  }
  EXPECT_TRUE(ReadNumbered(*store, 199).ok());
  EXPECT_EQ(ReadNumbered(*store, 0).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store->stats().puts_refused, 0u);
}

TEST_F(FullDisk, PutsAreRefusedBeforeTheDiskIsFullSafety) {
  const auto store = OpenAt(folder_.path(), {.folder = {}, .capacity_bytes = 256 << 20});
  ASSERT_NE(store, nullptr);
  FillWith(36 << 20);  // somebody else's
  base::Status status;
  uint64_t taken = 0;
  for (; taken < 200; ++taken) {
    status = PutNumbered(*store, taken, 64, true);
    if (!status.ok()) break;
  }
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
  ASSERT_GT(taken, 4u);
  EXPECT_EQ(store->stats().puts_refused, 1u);
  for (uint64_t i = 0; i < taken; ++i) EXPECT_TRUE(ReadNumbered(*store, i).ok()) << i;
  fs::remove(folder_.path() + "/ballast");
  EXPECT_TRUE(PutNumbered(*store, taken, 64, true).ok()) << "at once when there is space again";
}

TEST_F(FullDisk, RecoversWhenTheDiskWasFullSafety) {
  // Two bytes kept free: the disk does get full in the middle of a flush.
  const auto store = OpenAt(folder_.path(), {.folder = {}, .capacity_bytes = 256 << 20, .min_free_bytes = 2});
  ASSERT_NE(store, nullptr);
  FillWith(36 << 20);
  base::Status status;
  uint64_t taken = 0;
  for (; taken < 400; ++taken) {
    status = PutNumbered(*store, taken, 64, taken % 4 == 0);
    if (!status.ok()) break;
  }
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
  ASSERT_GT(taken, 4u);
  for (uint64_t i = 0; i < taken; ++i) {
    const auto read = ReadNumbered(*store, i);
    ASSERT_TRUE(read.ok()) << i << ": " << read.status().ToString();
    EXPECT_TRUE(std::ranges::equal(read->bytes(), NumberedObject(i, 64)));
  }
  fs::remove(folder_.path() + "/ballast");
  const auto give_up = Soon();
  do {
    status = PutNumbered(*store, 1000, 64, true);
    std::this_thread::yield();
  } while (!status.ok() && base::Clock::System().Now() < give_up);
  EXPECT_TRUE(status.ok()) << status.ToString();
  for (uint64_t i = 0; i < taken; ++i) EXPECT_TRUE(ReadNumbered(*store, i).ok()) << i;
  EXPECT_GE(store->stats().errors + store->stats().puts_refused, 1u);
}

}  // namespace
}  // namespace kvplane::store
