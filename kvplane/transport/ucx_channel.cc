#include "kvplane/transport/ucx_channel.h"

#include <algorithm>
#include <cstring>

namespace kvplane::transport {
namespace {

// Small messages are gathered in blocks, so that bytes and not messages bound the memory of a window.
constexpr size_t kBlockBytes = 16 << 10;

}  // namespace

base::Status UcxChannel::Ended() {
  if (shut_down_) return base::Cancelled("stream to {} shut down", peer_);
  return failure_;
}

base::Status UcxChannel::WaitUntilConnected(base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  while (!connected_) {
    KVPLANE_RETURN_IF_ERROR(Ended());
    if (!changed_.WaitUntil(mutex_, deadline) && !connected_ && Ended().ok()) {
      return base::DeadlineExceeded("{} did not answer in time", peer_);
    }
  }
  return base::Status::Ok();
}

base::Result<UcxChannel::Room> UcxChannel::TakeCredit(size_t wanted, base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  while (true) {
    KVPLANE_RETURN_IF_ERROR(Ended());
    if (sent_ < limit_) break;
    if (!changed_.WaitUntil(mutex_, deadline) && sent_ >= limit_ && Ended().ok()) {
      return base::DeadlineExceeded("{} did not read in time", peer_);
    }
  }
  const Room room = {sent_, static_cast<size_t>(std::min<uint64_t>(wanted, limit_ - sent_))};
  sent_ += room.bytes;
  return room;
}

base::Result<UcxChannel::Taken> UcxChannel::TakeArrived(std::span<std::byte> into, base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  while (true) {
    if (shut_down_) return Ended();
    if (!arrived_.empty()) break;
    KVPLANE_RETURN_IF_ERROR(Ended());
    if (!changed_.WaitUntil(mutex_, deadline) && arrived_.empty() && Ended().ok()) {
      return base::DeadlineExceeded("nothing came from {} in time", peer_);
    }
  }
  Taken taken;
  while (!arrived_.empty() && taken.bytes < into.size()) {
    const std::vector<std::byte>& front = arrived_.front();
    const size_t count = std::min(into.size() - taken.bytes, front.size() - front_at_);
    std::memcpy(into.data() + taken.bytes, front.data() + front_at_, count);
    taken.bytes += count;
    front_at_ += count;
    if (front_at_ == front.size()) {
      arrived_.pop_front();
      front_at_ = 0;
    }
  }
  read_ += taken.bytes;
  if (read_ + kUcxWindowBytes - granted_ >= kUcxWindowBytes / 4) {
    granted_ = read_ + kUcxWindowBytes;
    taken.grant = granted_;
  }
  return taken;
}

bool UcxChannel::ShutDown() {
  base::MutexLock lock(mutex_);
  if (shut_down_) return false;
  shut_down_ = true;
  arrived_.clear();
  changed_.NotifyAll();
  return true;
}

base::Status UcxChannel::Arrived(uint64_t offset, std::span<const std::byte> bytes) {
  base::MutexLock lock(mutex_);
  if (offset != received_ || bytes.empty() || bytes.size() > granted_ - received_) {
    return base::Unavailable("{} sent {} bytes at {}, expected 1 to {} at {}", peer_, bytes.size(), offset,
                             granted_ - received_, received_);
  }
  received_ += bytes.size();
  if (shut_down_) return base::Status::Ok();
  if (arrived_.empty() || arrived_.back().capacity() - arrived_.back().size() < bytes.size()) {
    arrived_.emplace_back().reserve(std::max(bytes.size(), kBlockBytes));
  }
  arrived_.back().insert(arrived_.back().end(), bytes.begin(), bytes.end());
  changed_.NotifyAll();
  return base::Status::Ok();
}

base::Status UcxChannel::Granted(uint64_t limit) {
  base::MutexLock lock(mutex_);
  if (limit < limit_ || limit > sent_ + kUcxWindowBytes) {
    return base::Unavailable("{} granted {} bytes after {}, with {} sent", peer_, limit, limit_, sent_);
  }
  limit_ = limit;
  connected_ = true;
  changed_.NotifyAll();
  return base::Status::Ok();
}

base::Status UcxChannel::PeerEnded(uint64_t offset) {
  base::MutexLock lock(mutex_);
  if (offset != received_) {
    return base::Unavailable("{} ended after {} bytes, of which {} arrived", peer_, offset, received_);
  }
  if (failure_.ok()) failure_ = base::Unavailable("{} closed the connection", peer_);
  changed_.NotifyAll();
  return base::Status::Ok();
}

void UcxChannel::Fail(const base::Status& status) {
  base::MutexLock lock(mutex_);
  if (failure_.ok()) failure_ = status;
  changed_.NotifyAll();
}

}  // namespace kvplane::transport
