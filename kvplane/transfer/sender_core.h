// SenderCore: the state machine behind KvSender. Internal to kvplane/transfer.
//
// Threads: one accepts connections; each connection has a reader and a writer; codec threads encode; the
// housekeeper enforces deadlines, joins dead connections and runs all callbacks, so that no callback ever
// runs under the lock or on the caller's thread.
//
// Scheduling: a transfer is runnable while it has a puller and a posted tile nobody encodes. Encoders take
// the first runnable tile in TileOrder whose link has staging left; writers send control frames first, then
// the first ready tile in TileOrder as far as the receiver's credits go. A tile waits for credits without
// being overtaken by smaller ones of its transfer, so large tiles cannot starve. Turns (link_turn.h) are made
// when a transfer gets its puller, and anew when the link turns out to be of another speed.
//
// Lifetime: shared by KvSender and the sessions, so that a session may outlive the sender (it is then ended).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/codec/codec_cache.h"
#include "kvplane/transfer/frame_reader.h"
#include "kvplane/transfer/kv_sender.h"
#include "kvplane/transfer/sender_state.h"
#include "kvplane/transfer/start_thread.h"
#include "kvplane/transport/refusal_log.h"

namespace kvplane::transfer {

class SenderCore {
 public:
  SenderCore(std::unique_ptr<transport::Listener> listener, const KvSenderOptions& options);

  base::Status Start();  // kResourceExhausted: no threads; Stop() all the same
  // Ends every transfer with kCancelled, runs the last callbacks, joins all threads.
  void Stop() KVPLANE_EXCLUDES(mutex_);

  base::Result<std::shared_ptr<SendTransfer>> Offer(KvOffer offer) KVPLANE_EXCLUDES(mutex_);
  base::Status CheckStrategy(const codec::Strategy& strategy,
                             std::shared_ptr<const codec::ModelProfile> profile) {
    return codecs_.Bind(strategy, std::move(profile)).status();
  }
  void PostLayer(const std::shared_ptr<SendTransfer>& transfer, uint32_t layer, uint32_t first_token,
                 uint32_t tokens) KVPLANE_EXCLUDES(mutex_);
  void PostFirstToken(const std::shared_ptr<SendTransfer>& transfer, FirstToken token)
      KVPLANE_EXCLUDES(mutex_);
  void LowerQuality(const std::shared_ptr<SendTransfer>& transfer, uint16_t thousandths)
      KVPLANE_EXCLUDES(mutex_);
  base::Status UseStrategy(const std::shared_ptr<SendTransfer>& transfer, size_t number)
      KVPLANE_EXCLUDES(mutex_);
  void Cancel(const std::shared_ptr<SendTransfer>& transfer, std::string_view reason)
      KVPLANE_EXCLUDES(mutex_);

  base::Result<Withdrawal> Withdraw(std::string_view id) KVPLANE_EXCLUDES(mutex_);

  std::string endpoint() const { return listener_->endpoint(); }
  uint64_t backlog_bytes() const KVPLANE_EXCLUDES(mutex_);

 private:
  // What an encoder works on, outside the lock.
  struct EncodeJob {
    std::shared_ptr<SendTransfer> transfer;
    std::shared_ptr<SenderLink> link;
    TileGrid::Tile tile;
    uint8_t strategy = 0;
    uint32_t attempt = 0;
    size_t reserved_bytes = 0;
  };
  struct Batch {
    std::vector<ControlFrame> control;
    std::vector<ReadyTile> tiles;
  };

  // sender_core.cc: transfers
  // Takes over the offer's strategies, bound and checked against its descriptor.
  base::Status BindStrategies(KvOffer& offer, SendTransfer& transfer);
  void FinishLocked(const std::shared_ptr<SendTransfer>& transfer, base::Status status)
      KVPLANE_REQUIRES(mutex_);
  // The same, and tells the puller why.
  void AbortLocked(const std::shared_ptr<SendTransfer>& transfer, base::Status status)
      KVPLANE_REQUIRES(mutex_);
  void QueueCallbackLocked(const std::shared_ptr<SendTransfer>& transfer) KVPLANE_REQUIRES(mutex_);
  void AttachLocked(const std::shared_ptr<SendTransfer>& transfer, const std::shared_ptr<SenderLink>& link,
                    uint32_t stream, const PullFrame& pull, uint64_t bytes_received) KVPLANE_REQUIRES(mutex_);
  void MaybeDoneLocked(const std::shared_ptr<SendTransfer>& transfer) KVPLANE_REQUIRES(mutex_);
  void PushLocked(const std::shared_ptr<SenderLink>& link, std::vector<std::byte> frame,
                  std::shared_ptr<SendTransfer> transfer = nullptr) KVPLANE_REQUIRES(mutex_);

  // sender_unused.cc: KV that nobody fetches
  void StartLeaseLocked(const std::shared_ptr<SendTransfer>& transfer) KVPLANE_REQUIRES(mutex_);
  void EndLeaseLocked(SendTransfer& transfer) KVPLANE_REQUIRES(mutex_);
  void ExpireLeasesLocked(base::TimePoint now) KVPLANE_REQUIRES(mutex_);
  void RememberEndLocked(std::string_view id, EndedTransfer end) KVPLANE_REQUIRES(mutex_);
  // Null: nothing is known of it.
  const EndedTransfer* FindEndedLocked(std::string_view id) const KVPLANE_REQUIRES(mutex_);
  void ForgetEndLocked(std::string_view id) KVPLANE_REQUIRES(mutex_);

  // sender_core.cc: housekeeping
  void Housekeep() KVPLANE_EXCLUDES(mutex_);
  base::TimePoint ExpireLocked(base::TimePoint now) KVPLANE_REQUIRES(mutex_);

  // sender_schedule.cc: encoders and writers
  void Encode() KVPLANE_EXCLUDES(mutex_);
  bool PickTileLocked(EncodeJob& job) KVPLANE_REQUIRES(mutex_);
  bool HasStagingLocked(const SenderLink& link, size_t bytes) const KVPLANE_REQUIRES(mutex_);
  void UpdateRunnableLocked(const std::shared_ptr<SendTransfer>& transfer) KVPLANE_REQUIRES(mutex_);
  void RenewTurnsLocked(SenderLink& link) KVPLANE_REQUIRES(mutex_);
  void ReleaseStagingLocked(SenderLink& link, size_t bytes) KVPLANE_REQUIRES(mutex_);
  void EncodedLocked(const EncodeJob& job, base::Result<ReadyTile> coded, base::Duration took)
      KVPLANE_REQUIRES(mutex_);
  void Write(const std::shared_ptr<SenderLink>& link) KVPLANE_EXCLUDES(mutex_);
  Batch TakeBatchLocked(SenderLink& link) KVPLANE_REQUIRES(mutex_);
  void WrittenLocked(const std::shared_ptr<SenderLink>& link, const Batch& batch, base::TimePoint start)
      KVPLANE_REQUIRES(mutex_);

  // sender_link.cc: connections
  size_t codec_threads() const { return std::max<size_t>(options_.codec_threads, 1); }
  void Accept() KVPLANE_EXCLUDES(mutex_);
  // An error says why it was not taken.
  base::Status AddLink(std::unique_ptr<transport::Stream> stream) KVPLANE_EXCLUDES(mutex_);
  void Read(const std::shared_ptr<SenderLink>& link) KVPLANE_EXCLUDES(mutex_);
  base::Status HandleFrame(const std::shared_ptr<SenderLink>& link, FrameReader& reader)
      KVPLANE_EXCLUDES(mutex_);
  base::Status HandleHelloLocked(SenderLink& link, std::span<const std::byte> head) KVPLANE_REQUIRES(mutex_);
  void RefusePullLocked(const std::shared_ptr<SenderLink>& link, uint32_t stream, base::Status status)
      KVPLANE_REQUIRES(mutex_);
  base::Status HandlePullLocked(const std::shared_ptr<SenderLink>& link, const FrameReader& reader)
      KVPLANE_REQUIRES(mutex_);
  base::Status HandleCreditLocked(SenderLink& link, std::span<const std::byte> head) KVPLANE_REQUIRES(mutex_);
  base::Status HandleTransferFrameLocked(const std::shared_ptr<SenderLink>& link, const FrameReader& reader)
      KVPLANE_REQUIRES(mutex_);
  base::Status HandleNackLocked(const std::shared_ptr<SendTransfer>& transfer,
                                std::span<const std::byte> head) KVPLANE_REQUIRES(mutex_);
  base::Status HandleAckLocked(const std::shared_ptr<SendTransfer>& transfer, std::span<const std::byte> head)
      KVPLANE_REQUIRES(mutex_);
  // Ends the link's transfers, tells the peer why, then closes.
  void LeaveLinkLocked(const std::shared_ptr<SenderLink>& link, const base::Status& status)
      KVPLANE_REQUIRES(mutex_);
  void EndTransfersLocked(const std::shared_ptr<SenderLink>& link, const base::Status& status)
      KVPLANE_REQUIRES(mutex_);
  void CloseLinkLocked(const std::shared_ptr<SenderLink>& link, const base::Status& status)
      KVPLANE_REQUIRES(mutex_);
  void ThreadEndedLocked(const std::shared_ptr<SenderLink>& link) KVPLANE_REQUIRES(mutex_);

  const std::unique_ptr<transport::Listener> listener_;
  const KvSenderOptions options_;
  codec::CodecCache codecs_;
  BufferPool pool_;  // before everything that may hold a buffer
  transport::RefusalLog refusals_;

  mutable base::Mutex mutex_;
  base::CondVar wake_encoders_;
  base::CondVar wake_housekeeper_;
  bool stopping_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool drained_ KVPLANE_GUARDED_BY(mutex_) = false;  // all other threads are gone
  uint64_t next_sequence_ KVPLANE_GUARDED_BY(mutex_) = 1;
  std::map<std::string, std::shared_ptr<SendTransfer>, std::less<>> offers_
      KVPLANE_GUARDED_BY(mutex_);  // by id
  std::map<std::pair<base::TimePoint, uint64_t>, std::shared_ptr<SendTransfer>> deadlines_
      KVPLANE_GUARDED_BY(mutex_);
  // Complete, and not asked for: by the time they are dropped.
  std::map<std::pair<base::TimePoint, uint64_t>, std::shared_ptr<SendTransfer>> leases_
      KVPLANE_GUARDED_BY(mutex_);
  std::map<std::string, WaitingPull, std::less<>> waiting_ KVPLANE_GUARDED_BY(mutex_);  // by transfer id
  // How recent transfers ended, so that a late PULL is answered at once.
  std::map<std::string, EndedTransfer, std::less<>> ended_ KVPLANE_GUARDED_BY(mutex_);
  std::deque<std::string> ended_order_ KVPLANE_GUARDED_BY(mutex_);
  std::map<TileOrder, std::shared_ptr<SendTransfer>> runnable_ KVPLANE_GUARDED_BY(mutex_);
  std::map<uint64_t, std::shared_ptr<SenderLink>> links_ KVPLANE_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<SenderLink>> dead_links_ KVPLANE_GUARDED_BY(mutex_);
  std::vector<std::pair<OnComplete, TransferOutcome>> callbacks_ KVPLANE_GUARDED_BY(mutex_);
  size_t busy_links_ KVPLANE_GUARDED_BY(mutex_) = 0;  // with at least one transfer
  size_t staged_bytes_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t backlog_bytes_ KVPLANE_GUARDED_BY(mutex_) = 0;
  Pace encode_pace_ KVPLANE_GUARDED_BY(mutex_){0, 0};  // of all codec threads together

  std::thread accepting_;
  std::thread housekeeping_;
  std::vector<std::thread> encoding_;
};

}  // namespace kvplane::transfer
