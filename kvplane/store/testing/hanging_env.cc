#include "kvplane/store/testing/hanging_env.h"

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <string>
#include <utility>

#include "kvplane/base/mutex.h"

namespace kvplane::store {
namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

class Gate {
 public:
  void Set(bool closed) {
    base::MutexLock lock(mutex_);
    closed_ = closed;
    changed_.NotifyAll();
  }
  void Pass() {
    base::MutexLock lock(mutex_);
    ++waiting_;
    changed_.NotifyAll();
    while (closed_) changed_.Wait(mutex_);
    --waiting_;
  }
  void AwaitWaiting(uint64_t calls) {
    base::MutexLock lock(mutex_);
    while (waiting_ < calls) changed_.Wait(mutex_);
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  bool closed_ KVPLANE_GUARDED_BY(mutex_) = false;
  uint64_t waiting_ KVPLANE_GUARDED_BY(mutex_) = 0;
};

class HangingReads final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  HangingReads(std::unique_ptr<rocksdb::FSRandomAccessFile> file, Gate& gate)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), gate_(gate) {}
  IOStatus Read(uint64_t offset, size_t bytes, const IOOptions& options, rocksdb::Slice* result,
                char* scratch, IODebugContext* debug) const override {
    gate_.Pass();
    return FSRandomAccessFileOwnerWrapper::Read(offset, bytes, options, result, scratch, debug);
  }
  IOStatus MultiRead(rocksdb::FSReadRequest* requests, size_t count, const IOOptions& options,
                     IODebugContext* debug) override {
    gate_.Pass();
    return FSRandomAccessFileOwnerWrapper::MultiRead(requests, count, options, debug);
  }

 private:
  Gate& gate_;
};

class HangingWrites final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  HangingWrites(std::unique_ptr<rocksdb::FSWritableFile> file, Gate& gate)
      : FSWritableFileOwnerWrapper(std::move(file)), gate_(gate) {}
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options, IODebugContext* debug) override {
    gate_.Pass();
    return FSWritableFileOwnerWrapper::Append(data, options, debug);
  }
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo& info, IODebugContext* debug) override {
    gate_.Pass();
    return FSWritableFileOwnerWrapper::Append(data, options, info, debug);
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    gate_.Pass();
    return FSWritableFileOwnerWrapper::Sync(options, debug);
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    gate_.Pass();
    return FSWritableFileOwnerWrapper::Fsync(options, debug);
  }
  IOStatus RangeSync(uint64_t offset, uint64_t bytes, const IOOptions& options,
                     IODebugContext* debug) override {
    gate_.Pass();
    return FSWritableFileOwnerWrapper::RangeSync(offset, bytes, options, debug);
  }

 private:
  Gate& gate_;
};

class HangingFiles final : public rocksdb::FileSystemWrapper {
 public:
  HangingFiles() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "HangingFiles"; }
  Gate& gate() { return gate_; }

  IOStatus NewRandomAccessFile(const std::string& name, const FileOptions& options,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                               IODebugContext* debug) override {
    gate_.Pass();
    IOStatus status = FileSystemWrapper::NewRandomAccessFile(name, options, file, debug);
    if (status.ok()) *file = std::make_unique<HangingReads>(std::move(*file), gate_);
    return status;
  }
  IOStatus NewWritableFile(const std::string& name, const FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* file, IODebugContext* debug) override {
    gate_.Pass();
    IOStatus status = FileSystemWrapper::NewWritableFile(name, options, file, debug);
    if (status.ok()) *file = std::make_unique<HangingWrites>(std::move(*file), gate_);
    return status;
  }
  IOStatus DeleteFile(const std::string& name, const IOOptions& options, IODebugContext* debug) override {
    gate_.Pass();
    return FileSystemWrapper::DeleteFile(name, options, debug);
  }

 private:
  Gate gate_;
};

}  // namespace

struct HangingEnv::State {
  std::shared_ptr<HangingFiles> files = std::make_shared<HangingFiles>();
  std::unique_ptr<rocksdb::Env> env = rocksdb::NewCompositeEnv(files);
};

HangingEnv::HangingEnv() : state_(std::make_unique<State>()) {}
HangingEnv::~HangingEnv() { GoOn(); }

rocksdb::Env* HangingEnv::env() { return state_->env.get(); }
void HangingEnv::Hang() { state_->files->gate().Set(true); }
void HangingEnv::GoOn() { state_->files->gate().Set(false); }
void HangingEnv::AwaitHanging(uint64_t calls) { state_->files->gate().AwaitWaiting(calls); }

}  // namespace kvplane::store
