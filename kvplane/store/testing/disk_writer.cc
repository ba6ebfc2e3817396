// disk_writer FOLDER: puts numbered objects into a disk store as fast as it can, from three threads, and
// says on standard output which are promised: lines "durable N" and "put N". Runs until it is killed: that
// is what it is for.
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/store/disk_store.h"
#include "kvplane/store/testing/numbered_object.h"

namespace kvplane::store {
namespace {

// One write() per line: lines of several threads do not mix.
bool Say(const std::string& line) {
  return ::write(STDOUT_FILENO, line.data(), line.size()) == static_cast<ssize_t>(line.size());
}

void PutForEver(Store& store, std::atomic<uint64_t>& next) {
  for (;;) {
    const uint64_t number = next++;
    const bool durable = number % 3 == 0;
    const auto deadline = base::Clock::System().Now() + std::chrono::seconds(60);
    const base::Status status =
        store.Put(NumberedKey(number), {.prefix_bytes = 0, .quality = kLossless, .ttl = {}},
                  Slice::Own(NumberedObject(number, NumberedLayers(number))), {.durable = durable}, deadline);
    if (!status.ok() || !Say((durable ? "durable " : "put ") + std::to_string(number) + "\n")) return;
  }
}

int Main(const std::string& folder) {
  DiskStoreOptions options;
  options.folder = folder;
  options.capacity_bytes = 1 << 30;
  auto store = DiskStore::Open(options);
  if (!store.ok()) return 1;
  // Numbers go on behind what earlier processes put.
  std::atomic<uint64_t> next{(*store)->stats().entries * 10};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&] { PutForEver(**store, next); });
  for (std::thread& thread : threads) thread.join();
  return 1;  // only a failure ends it by itself
}

}  // namespace
}  // namespace kvplane::store

int main(int argc, char** argv) { return argc == 2 ? kvplane::store::Main(argv[1]) : 2; }
