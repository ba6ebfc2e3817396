#include "kvplane/transport/inproc_transport.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/transport/endpoint.h"

namespace kvplane::transport {
namespace {

// Connections waiting for Accept(); more are refused.
constexpr size_t kMaxBacklog = 128;

// One direction: a ring of bytes with one reader and one writer.
class Pipe {
 public:
  explicit Pipe(size_t capacity) : ring_(std::max<size_t>(capacity, 1)) {}

  base::Status Write(std::span<const std::byte> bytes, base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    while (!bytes.empty()) {
      if (cancelled_writer_) return base::Cancelled("stream shut down");
      if (closed_) return base::Unavailable("the peer closed the stream");
      if (size_ == ring_.size()) {
        if (!changed_.WaitUntil(mutex_, deadline) && size_ == ring_.size() && !closed_) {
          return base::DeadlineExceeded("the peer did not read in time");
        }
        continue;
      }
      const size_t at = (begin_ + size_) % ring_.size();
      const size_t count = std::min({bytes.size(), ring_.size() - size_, ring_.size() - at});
      std::memcpy(ring_.data() + at, bytes.data(), count);
      size_ += count;
      bytes = bytes.subspan(count);
      changed_.NotifyAll();
    }
    return base::Status::Ok();
  }

  // At least one byte, at most into.size(); as Stream::ReadSome().
  base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint deadline)
      KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    while (true) {
      if (cancelled_reader_) return base::Cancelled("stream shut down");
      if (size_ == 0) {
        if (closed_) return base::Unavailable("the peer closed the stream");
        if (!changed_.WaitUntil(mutex_, deadline) && size_ == 0 && !closed_) {
          return base::DeadlineExceeded("nothing arrived in time");
        }
        continue;
      }
      const size_t count = std::min({into.size(), size_, ring_.size() - begin_});
      std::memcpy(into.data(), ring_.data() + begin_, count);
      begin_ = (begin_ + count) % ring_.size();
      size_ -= count;
      changed_.NotifyAll();
      return count;
    }
  }

  void CloseByWriter() KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    closed_ = cancelled_writer_ = true;
    changed_.NotifyAll();
  }
  void CloseByReader() KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    closed_ = cancelled_reader_ = true;
    changed_.NotifyAll();
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  std::vector<std::byte> ring_ KVPLANE_GUARDED_BY(mutex_);
  size_t begin_ KVPLANE_GUARDED_BY(mutex_) = 0;
  size_t size_ KVPLANE_GUARDED_BY(mutex_) = 0;
  bool closed_ KVPLANE_GUARDED_BY(mutex_) = false;            // by either end; what is inside may be read
  bool cancelled_reader_ KVPLANE_GUARDED_BY(mutex_) = false;  // the reading end itself shut down
  bool cancelled_writer_ KVPLANE_GUARDED_BY(mutex_) = false;
};

class InprocStream final : public Stream {
 public:
  InprocStream(std::shared_ptr<Pipe> in, std::shared_ptr<Pipe> out, std::string peer)
      : in_(std::move(in)), out_(std::move(out)), peer_(std::move(peer)) {}
  ~InprocStream() override { Close(); }

  base::Status Write(std::span<const std::span<const std::byte>> pieces, base::TimePoint deadline) override {
    for (const std::span<const std::byte> piece : pieces) {
      KVPLANE_RETURN_IF_ERROR(out_->Write(piece, deadline).Annotate(peer_));
    }
    return base::Status::Ok();
  }
  base::Status Read(std::span<std::byte> into, base::TimePoint deadline) override {
    while (!into.empty()) {
      KVPLANE_ASSIGN_OR_RETURN(const size_t got, ReadSome(into, deadline));
      into = into.subspan(got);
    }
    return base::Status::Ok();
  }
  base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint deadline) override {
    const base::Result<size_t> got = in_->ReadSome(into, deadline);
    if (!got.ok()) return got.status().Annotate(peer_);
    return got;
  }
  void Shutdown() override { Close(); }
  std::string peer() const override { return peer_; }

 private:
  void Close() {
    in_->CloseByReader();
    out_->CloseByWriter();
  }

  const std::shared_ptr<Pipe> in_;
  const std::shared_ptr<Pipe> out_;
  const std::string peer_;
};

// The queue of one listener, shared with the transport's table.
struct AcceptQueue {
  base::Mutex mutex;
  base::CondVar changed;
  std::deque<std::unique_ptr<Stream>> waiting KVPLANE_GUARDED_BY(mutex);
  bool closed KVPLANE_GUARDED_BY(mutex) = false;
};

struct ListenerTable {
  base::Mutex mutex;
  std::map<std::string, std::shared_ptr<AcceptQueue>> by_name KVPLANE_GUARDED_BY(mutex);
  uint64_t next_name KVPLANE_GUARDED_BY(mutex) = 1;
};

class InprocListener final : public Listener {
 public:
  InprocListener(std::shared_ptr<ListenerTable> table, std::shared_ptr<AcceptQueue> queue, std::string name)
      : table_(std::move(table)), queue_(std::move(queue)), name_(std::move(name)) {}

  ~InprocListener() override {
    Close();
    base::MutexLock lock(table_->mutex);
    table_->by_name.erase(name_);
  }

  base::Result<std::unique_ptr<Stream>> Accept(base::TimePoint deadline) override {
    base::MutexLock lock(queue_->mutex);
    while (true) {
      if (queue_->closed) return base::Cancelled("listener inproc://{} shut down", name_);
      if (!queue_->waiting.empty()) break;
      if (!queue_->changed.WaitUntil(queue_->mutex, deadline) && queue_->waiting.empty() && !queue_->closed) {
        return base::DeadlineExceeded("inproc://{}: nobody connected in time", name_);
      }
    }
    std::unique_ptr<Stream> stream = std::move(queue_->waiting.front());
    queue_->waiting.pop_front();
    return stream;
  }

  std::string endpoint() const override { return fmt::format("inproc://{}", name_); }
  void Shutdown() override { Close(); }

 private:
  // Connections nobody accepted are closed, as the kernel does.
  void Close() {
    std::deque<std::unique_ptr<Stream>> dropped;
    base::MutexLock lock(queue_->mutex);
    queue_->closed = true;
    dropped.swap(queue_->waiting);
    queue_->changed.NotifyAll();
  }

  const std::shared_ptr<ListenerTable> table_;
  const std::shared_ptr<AcceptQueue> queue_;
  const std::string name_;
};

class InprocTransport final : public Transport {
 public:
  explicit InprocTransport(const InprocOptions& options) : options_(options) {}

  std::string_view name() const override { return "inproc"; }
  // Nobody but this process can reach it: nothing to hide, nobody to authenticate.
  Capabilities capabilities() const override {
    return {.encrypted = true, .authenticated = true, .cpu_ns_per_byte = 0.02};
  }

  base::Result<std::unique_ptr<Listener>> Listen(std::string_view endpoint) override {
    KVPLANE_ASSIGN_OR_RETURN(std::string name, ParseInprocEndpoint(endpoint));
    auto queue = std::make_shared<AcceptQueue>();
    base::MutexLock lock(table_->mutex);
    if (name.empty()) name = fmt::format("auto-{}", table_->next_name++);
    if (!table_->by_name.emplace(name, queue).second) {
      return base::Unavailable("inproc://{} is taken", name);
    }
    return std::unique_ptr<Listener>(std::make_unique<InprocListener>(table_, queue, name));
  }

  base::Result<std::unique_ptr<Stream>> Connect(std::string_view endpoint, base::TimePoint) override {
    KVPLANE_ASSIGN_OR_RETURN(const std::string name, ParseInprocEndpoint(endpoint));
    std::shared_ptr<AcceptQueue> queue;
    uint64_t number = 0;
    {
      base::MutexLock lock(table_->mutex);
      const auto found = table_->by_name.find(name);
      if (found == table_->by_name.end()) return base::Unavailable("connect to {}: refused", endpoint);
      queue = found->second;
      number = table_->next_name++;
    }
    auto to = std::make_shared<Pipe>(options_.pipe_bytes);
    auto from = std::make_shared<Pipe>(options_.pipe_bytes);
    auto far = std::make_unique<InprocStream>(to, from, fmt::format("inproc-client-{}", number));
    auto near = std::make_unique<InprocStream>(from, to, fmt::format("inproc-{}", name));
    base::MutexLock lock(queue->mutex);
    if (queue->closed || queue->waiting.size() >= kMaxBacklog) {
      return base::Unavailable("connect to {}: refused", endpoint);
    }
    queue->waiting.push_back(std::move(far));
    queue->changed.NotifyOne();
    return std::unique_ptr<Stream>(std::move(near));
  }

 private:
  const InprocOptions options_;
  const std::shared_ptr<ListenerTable> table_ = std::make_shared<ListenerTable>();
};

}  // namespace

std::unique_ptr<Transport> CreateInprocTransport(const InprocOptions& options) {
  return std::make_unique<InprocTransport>(options);
}

}  // namespace kvplane::transport
