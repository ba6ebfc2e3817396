// A file system for RocksDB that hangs on command: every read, write and sync then waits inside the call, as
// a system call waits in the kernel for a disk that does not answer.
//
// Thread safety: all members may be called from any thread. It outlives the databases that stand on it.
#pragma once

#include <cstdint>
#include <memory>

namespace rocksdb {
class Env;
}

namespace kvplane::store {

class HangingEnv {
 public:
  HangingEnv();
  ~HangingEnv();  // goes on first
  HangingEnv(const HangingEnv&) = delete;
  HangingEnv& operator=(const HangingEnv&) = delete;

  rocksdb::Env* env();

  void Hang();
  void GoOn();
  // Until so many calls hang.
  void AwaitHanging(uint64_t calls);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvplane::store
