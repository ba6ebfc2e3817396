// A stream over bytes in memory that delivers them in pieces of chosen sizes, then ends; what is written to
// it is kept. For tests and fuzzing of protocol readers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "kvplane/transport/stream.h"

namespace kvplane::store {

class MemoryStream final : public transport::Stream {
 public:
  // `piece`: the most that one ReadSome() gives, at least 1. `bytes` must outlive the stream.
  explicit MemoryStream(std::string_view bytes, size_t piece = ~size_t{0}) : bytes_(bytes), piece_(piece) {}

  base::Status Write(std::span<const std::span<const std::byte>> pieces, base::TimePoint) override {
    for (const auto part : pieces) written_.append(reinterpret_cast<const char*>(part.data()), part.size());
    return base::Status::Ok();
  }
  base::Status Read(std::span<std::byte> into, base::TimePoint) override {
    if (into.size() > bytes_.size()) return base::Unavailable("end of input");
    Take(into);
    return base::Status::Ok();
  }
  base::Result<size_t> ReadSome(std::span<std::byte> into, base::TimePoint) override {
    if (bytes_.empty()) return base::Unavailable("end of input");
    const size_t count = std::min({into.size(), bytes_.size(), piece_});
    Take(into.first(count));
    return count;
  }
  void Shutdown() override {}
  std::string peer() const override { return "memory"; }

  const std::string& written() const { return written_; }
  size_t left() const { return bytes_.size(); }

 private:
  void Take(std::span<std::byte> into) {
    if (!into.empty()) std::memcpy(into.data(), bytes_.data(), into.size());
    bytes_.remove_prefix(into.size());
  }

  std::string_view bytes_;
  const size_t piece_;
  std::string written_;
};

}  // namespace kvplane::store
