// ReceiverCore: the state machine behind KvReceiver. Internal to kvplane/transfer.
//
// Threads: each prefill node in use has a reader (which first connects) and a writer; decode threads turn
// coded tiles into pages (with none, the reader does it itself); the housekeeper enforces deadlines and
// stalls, pings silent connections, joins dead ones and runs all callbacks, so that no callback ever runs
// under the lock or on the caller's thread.
//
// The fence: a transfer that ends while a decoder is inside its pages completes when that decoder has left;
// a decoder enters only after looking, under the lock, whether the transfer still runs.
//
// Lifetime: shared by KvReceiver and the sessions, so that a session may outlive the receiver.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/codec/codec_cache.h"
#include "kvplane/transfer/frame_reader.h"
#include "kvplane/transfer/kv_receiver.h"
#include "kvplane/transfer/receiver_state.h"
#include "kvplane/transfer/start_thread.h"

namespace kvplane::transfer {

class ReceiverCore {
 public:
  ReceiverCore(transport::Transport& transport, const KvReceiverOptions& options);

  base::Status Start();  // kResourceExhausted: no threads; Stop() all the same
  // Ends every transfer with kCancelled, runs the last callbacks, joins all threads.
  void Stop() KVPLANE_EXCLUDES(mutex_);

  base::Result<std::shared_ptr<RecvTransfer>> Pull(KvPull pull) KVPLANE_EXCLUDES(mutex_);
  void Cancel(const std::shared_ptr<RecvTransfer>& transfer, std::string_view reason)
      KVPLANE_EXCLUDES(mutex_);
  uint32_t layers_ready(const RecvTransfer& transfer) const KVPLANE_EXCLUDES(mutex_);

 private:
  // receiver_core.cc: transfers
  void FinishLocked(const std::shared_ptr<RecvTransfer>& transfer, base::Status status)
      KVPLANE_REQUIRES(mutex_);
  // The same, and tells the prefill node why.
  void AbortLocked(const std::shared_ptr<RecvTransfer>& transfer, base::Status status)
      KVPLANE_REQUIRES(mutex_);
  void QueueCompletionLocked(const std::shared_ptr<RecvTransfer>& transfer) KVPLANE_REQUIRES(mutex_);
  void MaybeCompleteLocked(const std::shared_ptr<RecvTransfer>& transfer) KVPLANE_REQUIRES(mutex_);
  void PushLocked(ReceiverLink& link, std::vector<std::byte> frame) KVPLANE_REQUIRES(mutex_);
  // Pushes a frame of the transfer's stream and counts its bytes.
  void SendLocked(RecvTransfer& transfer, std::vector<std::byte> frame) KVPLANE_REQUIRES(mutex_);

  // receiver_core.cc: housekeeping
  void Housekeep() KVPLANE_EXCLUDES(mutex_);
  base::TimePoint ExpireLocked(base::TimePoint now) KVPLANE_REQUIRES(mutex_);
  base::TimePoint PingLocked(const std::shared_ptr<ReceiverLink>& link, base::TimePoint now)
      KVPLANE_REQUIRES(mutex_);

  // receiver_decode.cc
  void Decode() KVPLANE_EXCLUDES(mutex_);
  void DecodeTile(const CodedTile& coded, codec::Workspace& workspace) KVPLANE_EXCLUDES(mutex_);
  void DecodedLocked(const CodedTile& coded, const base::Status& status, uint8_t nack_reason)
      KVPLANE_REQUIRES(mutex_);
  void ReturnCreditLocked(ReceiverLink& link, size_t bytes) KVPLANE_REQUIRES(mutex_);

  // receiver_link.cc: connections
  // kResourceExhausted: no thread for a new connection; nothing has changed then.
  base::Status AttachLocked(const std::shared_ptr<RecvTransfer>& transfer) KVPLANE_REQUIRES(mutex_);
  void SendPullLocked(const std::shared_ptr<ReceiverLink>& link,
                      const std::shared_ptr<RecvTransfer>& transfer) KVPLANE_REQUIRES(mutex_);
  void Run(const std::shared_ptr<ReceiverLink>& link) KVPLANE_EXCLUDES(mutex_);
  base::Status Serve(const std::shared_ptr<ReceiverLink>& link) KVPLANE_EXCLUDES(mutex_);
  base::Status Greet(const std::shared_ptr<ReceiverLink>& link, FrameReader& reader, base::TimePoint deadline)
      KVPLANE_EXCLUDES(mutex_);
  base::Status ReadFrames(const std::shared_ptr<ReceiverLink>& link, FrameReader& reader)
      KVPLANE_EXCLUDES(mutex_);
  base::Status HandleFrame(const std::shared_ptr<ReceiverLink>& link, FrameReader& reader)
      KVPLANE_EXCLUDES(mutex_);
  base::Status HandleTransferFrameLocked(const std::shared_ptr<ReceiverLink>& link, const FrameReader& reader)
      KVPLANE_REQUIRES(mutex_);
  void TellFirstTokenLocked(RecvTransfer& transfer, FirstToken token) KVPLANE_REQUIRES(mutex_);
  void HandleDoneLocked(const std::shared_ptr<RecvTransfer>& transfer, const DoneFrame& done)
      KVPLANE_REQUIRES(mutex_);
  base::Status HandleOpen(const std::shared_ptr<ReceiverLink>& link, const FrameReader& reader)
      KVPLANE_EXCLUDES(mutex_);
  // The codecs of OPEN's strategies; the reason is an error of the transfer, not of the link.
  base::Result<std::vector<codec::SideCodecs>> BindStrategies(const OpenFrame& open,
                                                              const KvDescriptor& descriptor,
                                                              bool accept_lossy) KVPLANE_EXCLUDES(mutex_);
  // Takes over what OPEN says; an error is the transfer's.
  base::Status OpenTransferLocked(RecvTransfer& transfer, const OpenFrame& open,
                                  base::Result<std::vector<codec::SideCodecs>> codecs)
      KVPLANE_REQUIRES(mutex_);
  base::Status HandleTile(const std::shared_ptr<ReceiverLink>& link, FrameReader& reader)
      KVPLANE_EXCLUDES(mutex_);
  // Checks a tile's header and claims its place; an error is the transfer's.
  base::Status ClaimTileLocked(RecvTransfer& transfer, const FrameReader& reader, const TileFrame& frame,
                               CodedTile& coded) KVPLANE_REQUIRES(mutex_);
  void Write(const std::shared_ptr<ReceiverLink>& link) KVPLANE_EXCLUDES(mutex_);
  // Ends the link for its transfers; the reader thread then takes it down. Transfers that the prefill node
  // has not accepted yet ask once more over a new connection: the old one may have been stale.
  void EndLinkLocked(const std::shared_ptr<ReceiverLink>& link, const base::Status& status)
      KVPLANE_REQUIRES(mutex_);
  // The same, and wakes the link's threads.
  void CloseLinkLocked(const std::shared_ptr<ReceiverLink>& link, const base::Status& status)
      KVPLANE_REQUIRES(mutex_);

  transport::Transport& transport_;
  const KvReceiverOptions options_;
  codec::CodecCache codecs_;
  BufferPool pool_;  // before everything that may hold a buffer

  mutable base::Mutex mutex_;
  base::CondVar wake_decoders_;
  base::CondVar wake_housekeeper_;
  bool stopping_ KVPLANE_GUARDED_BY(mutex_) = false;
  bool drained_ KVPLANE_GUARDED_BY(mutex_) = false;  // all other threads are gone
  std::set<std::shared_ptr<RecvTransfer>> transfers_ KVPLANE_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<ReceiverLink>> links_ KVPLANE_GUARDED_BY(mutex_);  // by endpoint
  size_t links_alive_ KVPLANE_GUARDED_BY(mutex_) = 0;  // started and not yet joined
  std::vector<std::shared_ptr<ReceiverLink>> dead_links_ KVPLANE_GUARDED_BY(mutex_);
  std::deque<CodedTile> coded_ KVPLANE_GUARDED_BY(mutex_);  // bounded by the credits of all links
  std::vector<std::function<void()>> callbacks_ KVPLANE_GUARDED_BY(mutex_);

  std::thread housekeeping_;
  std::vector<std::thread> decoding_;
};

}  // namespace kvplane::transfer
