#include "kvplane/transport/testing/faulty_transport.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/base/rng.h"
#include "kvplane/transport/stream_decorator.h"

namespace kvplane::transport {
namespace {

struct SharedState {
  explicit SharedState(const FaultPlan& fault_plan) : plan(fault_plan), rng(fault_plan.seed) {}

  const FaultPlan plan;
  mutable base::Mutex mutex;
  base::Rng rng KVPLANE_GUARDED_BY(mutex);
  FaultCounts counts KVPLANE_GUARDED_BY(mutex);

  base::Rng NewStream() KVPLANE_EXCLUDES(mutex) {
    base::MutexLock lock(mutex);
    ++counts.streams;
    return rng.Split();
  }
  void Count(uint64_t FaultCounts::* counter) KVPLANE_EXCLUDES(mutex) {
    base::MutexLock lock(mutex);
    ++(counts.*counter);
  }
};

class FaultyStream final : public Stream {
 public:
  FaultyStream(std::unique_ptr<Stream> inner, std::shared_ptr<SharedState> state)
      : inner_(std::move(inner)), state_(std::move(state)), rng_(state_->NewStream()) {}

  base::Status Write(std::span<const std::span<const std::byte>> pieces, base::TimePoint deadline) override {
    const FaultPlan& plan = state_->plan;
    if (plan.delay_probability > 0 && rng_.Uniform() < plan.delay_probability) {
      state_->Count(&FaultCounts::writes_delayed);
      const auto delay = base::FromSeconds(base::ToSeconds(plan.max_delay) * rng_.Uniform());
      KVPLANE_RETURN_IF_ERROR(Pause(std::min(deadline, base::Clock::System().Now() + delay)));
    }
    const std::vector<std::byte> bytes = JoinAndFlip(pieces);
    const uint64_t limit =
        std::min({plan.drop_after_bytes, plan.truncate_after_bytes, plan.stall_after_bytes});
    const uint64_t room = limit - std::min(limit, written_);
    const std::span<const std::byte> head(bytes.data(), std::min<uint64_t>(bytes.size(), room));
    written_ += bytes.size();
    if (!head.empty()) KVPLANE_RETURN_IF_ERROR(inner_->Write({&head, 1}, deadline));
    if (head.size() == bytes.size()) return base::Status::Ok();
    return Break(deadline);
  }

  base::Status Read(std::span<std::byte> into, base::TimePoint deadline) override {
    return inner_->Read(into, deadline);
  }

  base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint deadline) override {
    return inner_->ReadSome(into, deadline);
  }

  void Shutdown() override {
    {
      base::MutexLock lock(mutex_);
      down_ = true;
      changed_.NotifyAll();
    }
    inner_->Shutdown();
  }

  std::string peer() const override { return inner_->peer(); }

 private:
  std::vector<std::byte> JoinAndFlip(std::span<const std::span<const std::byte>> pieces) {
    const FaultPlan& plan = state_->plan;
    std::vector<std::byte> out;
    for (const auto piece : pieces) {
      const size_t at = out.size();
      out.insert(out.end(), piece.begin(), piece.end());
      if (plan.flip_probability <= 0 || piece.size() < plan.flip_min_piece_bytes || piece.empty()) continue;
      if (rng_.Uniform() >= plan.flip_probability) continue;
      out[at + rng_.Below(piece.size())] ^= static_cast<std::byte>(1u << rng_.Below(8));
      state_->Count(&FaultCounts::bits_flipped);
    }
    return out;
  }

  base::Status Break(base::TimePoint deadline) {
    const FaultPlan& plan = state_->plan;
    if (plan.drop_after_bytes < written_) {
      state_->Count(&FaultCounts::drops);
      Shutdown();
      return base::Unavailable("dropped by the fault plan");
    }
    if (plan.stall_after_bytes < written_) {
      state_->Count(&FaultCounts::stalls);
      KVPLANE_RETURN_IF_ERROR(Pause(deadline));
      return base::DeadlineExceeded("stalled by the fault plan");
    }
    return base::Status::Ok();
  }

  // Waits until `when`; kCancelled after Shutdown().
  base::Status Pause(base::TimePoint when) KVPLANE_EXCLUDES(mutex_) {
    base::MutexLock lock(mutex_);
    while (!down_ && changed_.WaitUntil(mutex_, when)) {
    }
    return down_ ? base::Cancelled("stream shut down") : base::Status::Ok();
  }

  const std::unique_ptr<Stream> inner_;
  const std::shared_ptr<SharedState> state_;
  base::Rng rng_;         // the writing thread's
  uint64_t written_ = 0;  // the writing thread's
  base::Mutex mutex_;
  base::CondVar changed_;
  bool down_ KVPLANE_GUARDED_BY(mutex_) = false;
};

std::unique_ptr<Transport> BreakStreams(std::shared_ptr<Transport> inner,
                                        std::shared_ptr<SharedState> state) {
  StreamDecoration decoration;
  decoration.name = fmt::format("faulty({})", inner->name());
  decoration.capabilities = inner->capabilities();
  decoration.wrap = [state = std::move(state)](std::unique_ptr<Stream> stream, StreamEnd, std::string_view) {
    return base::Result<std::unique_ptr<Stream>>(std::make_unique<FaultyStream>(std::move(stream), state));
  };
  return DecorateStreams(std::move(inner), std::move(decoration));
}

class FaultyTransportOverInner final : public FaultyTransport {
 public:
  FaultyTransportOverInner(std::shared_ptr<Transport> inner, const FaultPlan& plan)
      : state_(std::make_shared<SharedState>(plan)), streams_(BreakStreams(std::move(inner), state_)) {}

  std::string_view name() const override { return streams_->name(); }
  Capabilities capabilities() const override { return streams_->capabilities(); }
  base::Result<std::unique_ptr<Listener>> Listen(std::string_view endpoint) override {
    return streams_->Listen(endpoint);
  }
  base::Result<std::unique_ptr<Stream>> Connect(std::string_view endpoint,
                                                base::TimePoint deadline) override {
    return streams_->Connect(endpoint, deadline);
  }
  FaultCounts counts() const override {
    base::MutexLock lock(state_->mutex);
    return state_->counts;
  }

 private:
  const std::shared_ptr<SharedState> state_;
  const std::unique_ptr<Transport> streams_;
};

}  // namespace

std::unique_ptr<FaultyTransport> FaultyTransport::Create(std::shared_ptr<Transport> inner,
                                                         const FaultPlan& plan) {
  return std::make_unique<FaultyTransportOverInner>(std::move(inner), plan);
}

}  // namespace kvplane::transport
