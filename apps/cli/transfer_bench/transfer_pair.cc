#include "apps/cli/transfer_bench/transfer_pair.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvplane/base/mutex.h"
#include "kvplane/transport/tcp_transport.h"

namespace kvplane::cli {
namespace {

// A run that takes longer than this is broken.
constexpr base::Duration kRunLimit = std::chrono::minutes(5);

base::TimePoint Now() { return base::Clock::System().Now(); }

// The ends of all jobs of one run. Shared with callbacks, which may outlive the run that gave up waiting.
class JobEnds {
 public:
  explicit JobEnds(size_t jobs) : outcomes_(jobs), ended_(jobs), left_(jobs) {}

  transfer::OnComplete Callback(size_t job, std::shared_ptr<JobEnds> self) {
    return [job, self = std::move(self)](transfer::TransferOutcome outcome) {
      base::MutexLock lock(self->mutex_);
      self->outcomes_[job] = std::move(outcome);
      self->ended_[job] = Now();
      --self->left_;
      self->changed_.NotifyAll();
    };
  }
  bool WaitForAll(base::TimePoint limit) {
    base::MutexLock lock(mutex_);
    while (left_ > 0) {
      if (!changed_.WaitUntil(mutex_, limit)) return left_ == 0;
    }
    return true;
  }
  TransferTiming Timing(size_t job, base::TimePoint start) const {
    base::MutexLock lock(mutex_);
    return {outcomes_[job], base::ToSeconds(ended_[job] - start)};
  }

 private:
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  std::vector<transfer::TransferOutcome> outcomes_ KVPLANE_GUARDED_BY(mutex_);
  std::vector<base::TimePoint> ended_ KVPLANE_GUARDED_BY(mutex_);
  size_t left_ KVPLANE_GUARDED_BY(mutex_);
};

void PostLayers(const TransferJob& job, transfer::SendSession& session) {
  base::TimePoint next = Now();
  for (uint32_t layer = 0; layer < job.from->geometry().layers; ++layer) {
    if (job.layer_time > base::Duration::zero()) {
      next += job.layer_time;
      base::Clock::System().SleepUntil(next);
    }
    session.PostLayer(layer, 0, job.tokens);
  }
}

}  // namespace

base::Result<std::unique_ptr<TransferPair>> TransferPair::Create(size_t codec_threads,
                                                                 codec::ProfileSet profiles) {
  std::unique_ptr<TransferPair> pair(new TransferPair);
  pair->tcp_ = transport::CreateTcpTransport();
  pair->profiles_ = std::move(profiles);
  KVPLANE_ASSIGN_OR_RETURN(pair->link_, transport::ShapedTransport::Create(pair->tcp_, {}));
  transfer::KvSenderOptions send;
  send.codec_threads = codec_threads;
  KVPLANE_ASSIGN_OR_RETURN(pair->sender_, transfer::KvSender::Create(*pair->link_, send));
  transfer::KvReceiverOptions receive;
  receive.codec_threads = codec_threads;
  receive.profiles = pair->profiles_;
  KVPLANE_ASSIGN_OR_RETURN(pair->receiver_, transfer::KvReceiver::Create(*pair->tcp_, receive));
  return pair;
}

TransferPair::~TransferPair() {
  receiver_.reset();
  sender_.reset();
}

base::Result<std::vector<TransferTiming>> TransferPair::Run(std::span<const TransferJob> jobs) {
  const auto ends = std::make_shared<JobEnds>(jobs.size());
  std::vector<std::shared_ptr<transfer::SendSession>> sessions;
  std::vector<base::TimePoint> starts;
  const base::TimePoint start = Now();
  for (size_t i = 0; i < jobs.size(); ++i) {
    const TransferJob& job = jobs[i];
    if (i > 0) base::Clock::System().SleepUntil(starts.back() + job.comes_after);
    starts.push_back(Now());
    transfer::KvDescriptor descriptor;
    descriptor.geometry = job.from->geometry();
    descriptor.tokens = job.tokens;
    transfer::KvOffer offer;
    offer.transfer_id = fmt::format("bench-{}", next_id_++);
    offer.descriptor = descriptor;
    offer.strategy = *job.strategy;
    if (job.strategy->needs_profile() && !profiles_.all().empty()) offer.profile = profiles_.all().front();
    offer.layers = job.from->layers();
    offer.deadline = starts.back() + kRunLimit;
    offer.expects_first_token = false;
    transfer::KvPull pull;
    pull.endpoint = sender_->endpoint();
    pull.transfer_id = offer.transfer_id;
    pull.descriptor = descriptor;
    pull.layers = job.to->layers();
    pull.deadline = offer.deadline;
    pull.on_complete = ends->Callback(i, ends);
    KVPLANE_ASSIGN_OR_RETURN(auto session, sender_->Offer(std::move(offer)));
    KVPLANE_RETURN_IF_ERROR(receiver_->Pull(std::move(pull)).status());
    PostLayers(job, *session);
    sessions.push_back(std::move(session));
  }
  if (!ends->WaitForAll(start + kRunLimit + std::chrono::seconds(10))) {
    return base::DeadlineExceeded("a transfer did not end within {:.0f} s", base::ToSeconds(kRunLimit));
  }
  std::vector<TransferTiming> timings;
  for (size_t i = 0; i < jobs.size(); ++i) {
    timings.push_back(ends->Timing(i, starts[i]));
    KVPLANE_RETURN_IF_ERROR(timings.back().outcome.status);
  }
  return timings;
}

}  // namespace kvplane::cli
