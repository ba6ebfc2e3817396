#include "kvplane/store/redis/resp.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "kvplane/base/check.h"

namespace kvplane::store {
namespace {

constexpr std::string_view kLineEnd = "\r\n";

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// What a server sent, for messages: printable and short.
std::string Quoted(std::string_view text) {
  constexpr size_t kShown = 64;
  std::string out(text.substr(0, kShown));
  for (char& c : out) {
    if (c < ' ' || c > '~') c = '?';
  }
  return out;
}

}  // namespace

std::string_view RespValue::view() const {
  if (kind != RespKind::kBulk) return text;
  return {reinterpret_cast<const char*>(bulk.bytes().data()), bulk.size()};
}

base::Result<int64_t> ParseRespInteger(std::string_view text) {
  const std::string_view digits = text.starts_with('-') ? text.substr(1) : text;
  const bool canonical = !digits.empty() && digits.front() >= '0' && digits.front() <= '9' &&
                         (digits.front() != '0' || text.size() == 1);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (!canonical || error != std::errc() || end != text.data() + text.size()) {
    return base::Corrupt("redis reply: \"{}\" is not a number", Quoted(text));
  }
  return value;
}

RespCommand::RespCommand(size_t args) { fmt::format_to(std::back_inserter(before_), "*{}\r\n", args); }

RespCommand& RespCommand::Arg(std::string_view text_of_arg) {
  fmt::format_to(std::back_inserter(text()), "${}\r\n{}\r\n", text_of_arg.size(), text_of_arg);
  return *this;
}

RespCommand& RespCommand::Arg(uint64_t number) { return Arg(fmt::format("{}", number)); }

RespCommand& RespCommand::Payload(std::span<const std::byte> first, std::span<const std::byte> second) {
  KVPLANE_CHECK(!has_payload_);
  fmt::format_to(std::back_inserter(before_), "${}\r\n", first.size() + second.size());
  payload_ = {first, second};
  has_payload_ = true;
  after_ = kLineEnd;
  return *this;
}

size_t RespCommand::bytes() const {
  return before_.size() + payload_[0].size() + payload_[1].size() + after_.size();
}

base::Status WriteRespCommands(transport::Stream& stream, std::span<const RespCommand* const> commands,
                               base::TimePoint deadline) {
  // Short texts are joined: a thousand ranged reads are one piece, not a thousand.
  size_t text_bytes = 0;
  for (const RespCommand* command : commands)
    text_bytes += command->before().size() + command->after().size();
  std::string text;
  text.reserve(text_bytes);  // pieces point into it
  std::vector<std::span<const std::byte>> pieces;
  size_t joined = 0;  // start of the text that is not yet a piece
  const auto close_text = [&] {
    if (text.size() > joined) pieces.push_back(Bytes(std::string_view(text).substr(joined)));
    joined = text.size();
  };
  for (const RespCommand* command : commands) {
    text += command->before();
    if (command->after().empty()) continue;
    close_text();
    for (const std::span<const std::byte> piece : command->payload()) {
      if (!piece.empty()) pieces.push_back(piece);
    }
    text += command->after();
  }
  close_text();
  return stream.Write(pieces, deadline);
}

base::Result<RespValue> RespReader::Next(const RespLimits& limits, base::TimePoint deadline,
                                         base::Duration grace) {
  uint32_t elements_left = limits.max_elements;
  return ReadValue(limits, 0, elements_left, deadline, grace);
}

base::Result<RespValue> RespReader::ReadValue(const RespLimits& limits, uint32_t depth,
                                              uint32_t& elements_left, base::TimePoint deadline,
                                              base::Duration grace) {
  KVPLANE_ASSIGN_OR_RETURN(const std::string_view line, ReadLine(deadline, grace));
  if (line.empty()) return base::Corrupt("redis reply: an empty line");
  RespValue value;
  const std::string_view rest = line.substr(1);
  switch (line.front()) {
    case '+':
    case '-':
      value.kind = line.front() == '+' ? RespKind::kSimple : RespKind::kError;
      value.text = rest;
      return value;
    case ':': {
      value.kind = RespKind::kInteger;
      KVPLANE_ASSIGN_OR_RETURN(value.integer, ParseRespInteger(rest));
      return value;
    }
    case '$':
    case '*':
      break;
    default:
      return base::Corrupt("redis reply: \"{}\" begins like none", Quoted(line));
  }
  const bool bulk = line.front() == '$';
  KVPLANE_ASSIGN_OR_RETURN(const int64_t size, ParseRespInteger(rest));
  if (size == -1) return value;  // nil
  if (size < 0) return base::Corrupt("redis reply: a length of {}", size);
  if (bulk) {
    if (static_cast<uint64_t>(size) > limits.max_bulk_bytes) {
      return base::Corrupt("redis reply: {} bytes, at most {} were asked for", size, limits.max_bulk_bytes);
    }
    KVPLANE_RETURN_IF_ERROR(ReadBulk(static_cast<uint64_t>(size), value, deadline));
  } else {
    KVPLANE_RETURN_IF_ERROR(
        ReadArray(limits, static_cast<uint64_t>(size), depth + 1, elements_left, value, deadline));
  }
  return value;
}

base::Status RespReader::ReadBulk(uint64_t size, RespValue& value, base::TimePoint deadline) {
  value.kind = RespKind::kBulk;
  deadline = std::min(deadline, base::Clock::System().Now() + stall_ + RespTransferTime(size));
  // Not initialised: every byte is received.
  const std::shared_ptr<std::byte[]> owner = std::make_shared_for_overwrite<std::byte[]>(size);
  const std::span<std::byte> into(owner.get(), size);
  const size_t here = std::min<size_t>(size, buffered());
  if (here > 0) std::memcpy(into.data(), buffer_.data() + begin_, here);
  begin_ += here;
  KVPLANE_RETURN_IF_ERROR(stream_.Read(into.subspan(here), deadline));
  while (buffered() < kLineEnd.size()) KVPLANE_RETURN_IF_ERROR(Fill(deadline));
  if (std::memcmp(buffer_.data() + begin_, kLineEnd.data(), kLineEnd.size()) != 0) {
    return base::Corrupt("redis reply: a string of {} bytes does not end there", size);
  }
  begin_ += kLineEnd.size();
  value.bulk = Slice(owner, into);
  return base::Status::Ok();
}

base::Status RespReader::ReadArray(const RespLimits& limits, uint64_t size, uint32_t depth,
                                   uint32_t& elements_left, RespValue& value, base::TimePoint deadline) {
  value.kind = RespKind::kArray;
  if (depth > kMaxRespDepth) return base::Corrupt("redis reply: arrays nested {} deep", depth);
  if (size > elements_left) {
    return base::Corrupt("redis reply: {} elements, at most {} were asked for", size, limits.max_elements);
  }
  elements_left -= static_cast<uint32_t>(size);
  for (uint64_t i = 0; i < size; ++i) {
    KVPLANE_ASSIGN_OR_RETURN(RespValue element, ReadValue(limits, depth, elements_left, deadline, {}));
    value.array.push_back(std::move(element));
  }
  return base::Status::Ok();
}

base::Result<std::string_view> RespReader::ReadLine(base::TimePoint deadline, base::Duration grace) {
  deadline = std::min(deadline, base::Clock::System().Now() + stall_ + grace);
  size_t searched = 0;
  while (true) {
    const std::string_view have(reinterpret_cast<const char*>(buffer_.data()) + begin_, buffered());
    const size_t end = have.find(kLineEnd, searched);
    // The last byte so far may be the CR of the end.
    if (end == std::string_view::npos ? have.size() > kMaxRespLineBytes + 1 : end > kMaxRespLineBytes) {
      return base::Corrupt("redis reply: a line of more than {} bytes", kMaxRespLineBytes);
    }
    if (end != std::string_view::npos) {
      begin_ += end + kLineEnd.size();
      return have.substr(0, end);
    }
    searched = have.empty() ? 0 : have.size() - 1;  // a CR may be the last byte here
    KVPLANE_RETURN_IF_ERROR(Fill(deadline));
  }
}

base::Status RespReader::Fill(base::TimePoint deadline) {
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, buffered());
    end_ -= begin_;
    begin_ = 0;
  }
  KVPLANE_CHECK(end_ < buffer_.size());  // lines are shorter than the buffer
  KVPLANE_ASSIGN_OR_RETURN(const size_t got, stream_.ReadSome(std::span(buffer_).subspan(end_), deadline));
  end_ += got;
  return base::Status::Ok();
}

}  // namespace kvplane::store
