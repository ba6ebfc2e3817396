#include "kvplane/transport/shaped_transport.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <deque>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/base/rng.h"
#include "kvplane/transport/stream_decorator.h"

namespace kvplane::transport {
namespace {

constexpr base::Duration kMaxLatency = std::chrono::seconds(10);

// A chunk is what the rate moves in about a millisecond, within these bounds: smaller costs a wake-up per
// packet, larger is not smooth.
constexpr size_t kMinChunkBytes = 1500;
constexpr size_t kMaxChunkBytes = 64 << 10;

// A chunk that the inner stream does not take for this long after it was due fails the stream.
constexpr base::Duration kMaxDelivery = std::chrono::seconds(30);

// Bytes under way on one stream of a link with latency; a writer waits beyond it.
constexpr size_t kMaxDelayedBytes = 64 << 20;

double Sanitize(double bits_per_second) { return bits_per_second > 0 ? bits_per_second : 0; }

class TokenBucket {
 public:
  explicit TokenBucket(const ShapedOptions& options)
      : burst_(static_cast<double>(options.burst_bytes)), bits_per_second_(options.bits_per_second) {}

  void SetRate(double bits_per_second) KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    Refill(base::Clock::System().Now());
    bits_per_second_ = bits_per_second;
    changed_.NotifyAll();
  }

  double rate() const KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    return bits_per_second_;
  }

  void Wake() KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    changed_.NotifyAll();
  }

  // Waits for its turn, then takes min(wanted, one chunk) bytes; the result is what was taken.
  base::Result<size_t> Take(size_t wanted, base::TimePoint deadline, const std::atomic<bool>& cancelled)
      KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    base::TimePoint now = base::Clock::System().Now();
    Refill(now);
    if (waiters_ == 0) tokens_ = std::min(tokens_, burst_);
    ++waiters_;
    base::Status status;
    while (true) {
      if (cancelled.load()) status = base::Cancelled("stream shut down");
      if (!status.ok() || std::isinf(bits_per_second_) || tokens_ >= 0) break;
      if (now >= deadline) {
        status = base::DeadlineExceeded("the link is too slow");
        break;
      }
      changed_.WaitUntil(mutex_, std::min(deadline, NextTurn(now)));
      now = base::Clock::System().Now();
      Refill(now);
    }
    --waiters_;
    if (!status.ok()) return status;
    const size_t taken = std::min(wanted, ChunkBytes());
    if (!std::isinf(bits_per_second_)) tokens_ -= static_cast<double>(taken);
    return taken;
  }

 private:
  double bytes_per_second() const KVPLANE_REQUIRES(mutex_) { return bits_per_second_ / 8; }

  void Refill(base::TimePoint now) KVPLANE_REQUIRES(mutex_) {
    if (std::isinf(bits_per_second_)) {
      tokens_ = 0;
    } else {
      tokens_ += base::ToSeconds(now - filled_at_) * bytes_per_second();
    }
    filled_at_ = now;
  }

  base::TimePoint NextTurn(base::TimePoint now) const KVPLANE_REQUIRES(mutex_) {
    // Bounded, because at a rate near zero the wait in seconds would not fit a TimePoint.
    const double seconds = bits_per_second_ > 0 ? -tokens_ / bytes_per_second() : 3600.0;
    return now + base::FromSeconds(std::min(seconds, 3600.0)) + base::Duration(1);
  }

  size_t ChunkBytes() const KVPLANE_REQUIRES(mutex_) {
    const double chunk = std::min(bytes_per_second() / 1000, static_cast<double>(kMaxChunkBytes));
    return std::max(kMinChunkBytes, static_cast<size_t>(chunk));
  }

  const double burst_;
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  double bits_per_second_ KVPLANE_GUARDED_BY(mutex_);
  double tokens_ KVPLANE_GUARDED_BY(mutex_) = 0;  // bytes; negative: debt of the last chunk
  base::TimePoint filled_at_ KVPLANE_GUARDED_BY(mutex_) = base::Clock::System().Now();
  int waiters_ KVPLANE_GUARDED_BY(mutex_) = 0;
};

// How one stream's chunks are delayed.
struct DelayPlan {
  base::Duration latency{};
  base::Duration jitter{};
  base::Rng rng{0};

  bool any() const { return latency + jitter > base::Duration::zero(); }
};

// Hands chunks to the inner stream when their time has come.
class DelayLine {
 public:
  DelayLine(Stream& inner, const DelayPlan& plan)
      : inner_(inner), plan_(plan), jitter_(plan.rng), thread_([this] { Run(); }) {}

  ~DelayLine() {
    Finish(false);
    thread_.join();
  }

  base::Status Push(std::vector<std::byte> chunk, base::TimePoint deadline) KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    while (status_.ok() && bytes_ > 0 && bytes_ + chunk.size() > kMaxDelayedBytes) {
      if (!changed_.WaitUntil(mutex_, deadline) && bytes_ + chunk.size() > kMaxDelayedBytes) {
        return base::DeadlineExceeded("the link holds {} bytes under way", bytes_);
      }
    }
    if (!status_.ok()) return status_;
    bytes_ += chunk.size();
    const base::Duration late = base::FromSeconds(base::ToSeconds(plan_.jitter) * jitter_.Uniform());
    last_due_ = std::max(last_due_, base::Clock::System().Now() + plan_.latency + late);
    // The caller's deadline is about leaving the sender; the chunk then travels.
    const base::Duration travel = plan_.latency + plan_.jitter;
    const base::TimePoint limit = deadline == base::kNoDeadline ? deadline : deadline + travel;
    queue_.push_back({last_due_, limit, std::move(chunk)});
    changed_.NotifyAll();
    return base::Status::Ok();
  }

  // Ends the thread; `drop` forgets what is under way.
  void Finish(bool drop) KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    finished_ = true;
    if (drop) {
      queue_.clear();
      if (status_.ok()) status_ = base::Cancelled("stream shut down");
    }
    changed_.NotifyAll();
  }

 private:
  struct Entry {
    base::TimePoint due;
    base::TimePoint deadline;
    std::vector<std::byte> bytes;
  };

  void Run() KVPLANE_EXCLUDES(mutex_) {
    while (true) {
      Entry entry;
      {
        base::MutexLock lock(mutex_);
        while (queue_.empty() && !finished_) changed_.WaitUntil(mutex_, base::kNoDeadline);
        if (queue_.empty()) return;
        const base::TimePoint due = queue_.front().due;
        if (base::Clock::System().Now() < due) {
          changed_.WaitUntil(mutex_, due);
          continue;
        }
        entry = std::move(queue_.front());
        queue_.pop_front();
      }
      const std::span<const std::byte> piece(entry.bytes);
      const base::TimePoint deadline = std::min(entry.deadline, entry.due + kMaxDelivery);
      base::Status status = inner_.Write({&piece, 1}, deadline);
      base::MutexLock lock(mutex_);
      bytes_ -= entry.bytes.size();
      if (!status.ok()) {
        status_ = std::move(status);
        queue_.clear();
        finished_ = true;
      }
      changed_.NotifyAll();
    }
  }

  Stream& inner_;
  const DelayPlan plan_;
  base::Mutex mutex_;
  base::CondVar changed_;
  base::Rng jitter_ KVPLANE_GUARDED_BY(mutex_);
  base::TimePoint last_due_ KVPLANE_GUARDED_BY(mutex_){};
  std::deque<Entry> queue_ KVPLANE_GUARDED_BY(mutex_);
  size_t bytes_ KVPLANE_GUARDED_BY(mutex_) = 0;  // in the queue and in the inner Write
  base::Status status_ KVPLANE_GUARDED_BY(mutex_);
  bool finished_ KVPLANE_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it starts when everything above is ready
};

// What all streams of one instance share.
class ShapedLink {
 public:
  explicit ShapedLink(const ShapedOptions& options)
      : bucket(options), latency_(options.latency), jitter_(options.jitter), rng_(options.seed) {}

  DelayPlan NewStream() KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    return {latency_, jitter_, rng_.Split()};
  }

  TokenBucket bucket;

 private:
  const base::Duration latency_;
  const base::Duration jitter_;
  base::Mutex mutex_;
  base::Rng rng_ KVPLANE_GUARDED_BY(mutex_);
};

class ShapedStream final : public Stream {
 public:
  ShapedStream(std::unique_ptr<Stream> inner, std::shared_ptr<ShapedLink> link)
      : inner_(std::move(inner)), link_(std::move(link)) {
    if (const DelayPlan plan = link_->NewStream(); plan.any()) {
      delay_ = std::make_unique<DelayLine>(*inner_, plan);
    }
  }

  base::Status Write(std::span<const std::span<const std::byte>> pieces, base::TimePoint deadline) override {
    size_t total = 0;
    for (const auto piece : pieces) total += piece.size();
    size_t index = 0;
    size_t offset = 0;
    std::vector<std::span<const std::byte>> chunk;
    while (total > 0) {
      KVPLANE_ASSIGN_OR_RETURN(size_t taken, link_->bucket.Take(total, deadline, cancelled_));
      total -= taken;
      chunk.clear();
      while (taken > 0) {
        const size_t count = std::min(taken, pieces[index].size() - offset);
        if (count > 0) chunk.push_back(pieces[index].subspan(offset, count));
        taken -= count;
        offset += count;
        if (offset == pieces[index].size()) {
          ++index;
          offset = 0;
        }
      }
      KVPLANE_RETURN_IF_ERROR(delay_ == nullptr ? inner_->Write(chunk, deadline)
                                                : delay_->Push(Join(chunk), deadline));
    }
    return base::Status::Ok();
  }

  base::Status Read(std::span<std::byte> into, base::TimePoint deadline) override {
    return inner_->Read(into, deadline);
  }

  base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint deadline) override {
    return inner_->ReadSome(into, deadline);
  }

  void Shutdown() override {
    cancelled_.store(true);
    link_->bucket.Wake();
    if (delay_ != nullptr) delay_->Finish(true);
    inner_->Shutdown();
  }

  std::string peer() const override { return inner_->peer(); }

 private:
  static std::vector<std::byte> Join(std::span<const std::span<const std::byte>> pieces) {
    std::vector<std::byte> out;
    for (const auto piece : pieces) out.insert(out.end(), piece.begin(), piece.end());
    return out;
  }

  const std::unique_ptr<Stream> inner_;
  const std::shared_ptr<ShapedLink> link_;
  std::atomic<bool> cancelled_{false};
  std::unique_ptr<DelayLine> delay_;
};

std::unique_ptr<Transport> ShapeStreams(std::shared_ptr<Transport> inner, std::shared_ptr<ShapedLink> link) {
  StreamDecoration decoration;
  decoration.name = fmt::format("shaped({})", inner->name());
  decoration.capabilities = inner->capabilities();
  decoration.wrap = [link = std::move(link)](std::unique_ptr<Stream> stream, StreamEnd, std::string_view) {
    return base::Result<std::unique_ptr<Stream>>(std::make_unique<ShapedStream>(std::move(stream), link));
  };
  return DecorateStreams(std::move(inner), std::move(decoration));
}

class ShapedTransportOverInner final : public ShapedTransport {
 public:
  ShapedTransportOverInner(std::shared_ptr<Transport> inner, const ShapedOptions& options)
      : link_(std::make_shared<ShapedLink>(options)), streams_(ShapeStreams(std::move(inner), link_)) {}

  std::string_view name() const override { return streams_->name(); }
  Capabilities capabilities() const override { return streams_->capabilities(); }
  base::Result<std::unique_ptr<Listener>> Listen(std::string_view endpoint) override {
    return streams_->Listen(endpoint);
  }
  base::Result<std::unique_ptr<Stream>> Connect(std::string_view endpoint,
                                                base::TimePoint deadline) override {
    return streams_->Connect(endpoint, deadline);
  }
  void SetRate(double bits_per_second) override { link_->bucket.SetRate(Sanitize(bits_per_second)); }
  double rate() const override { return link_->bucket.rate(); }

 private:
  const std::shared_ptr<ShapedLink> link_;
  const std::unique_ptr<Transport> streams_;
};

}  // namespace

base::Result<std::unique_ptr<ShapedTransport>> ShapedTransport::Create(std::shared_ptr<Transport> inner,
                                                                       const ShapedOptions& options) {
  if (std::isnan(options.bits_per_second) || options.bits_per_second < 0) {
    return base::InvalidArgument("rate of {} bits/s", options.bits_per_second);
  }
  for (const base::Duration delay : {options.latency, options.jitter}) {
    if (delay >= base::Duration::zero() && delay <= kMaxLatency) continue;
    return base::InvalidArgument("latency or jitter of {} ms; 0 to {} ms are possible", base::ToMillis(delay),
                                 base::ToMillis(kMaxLatency));
  }
  return std::unique_ptr<ShapedTransport>(
      std::make_unique<ShapedTransportOverInner>(std::move(inner), options));
}

}  // namespace kvplane::transport
