// The head of an ecsq or ternary payload: mode, head scales, rungs, escapes, lengths (spec.md, section 4).
//
// Thread safety: values over the caller's memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/base/endian.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/ecsq/ecsq_plan.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// How the rungs of a tile are given. Wire values.
enum class RungForm : uint8_t { kForetold = 0, kNibbles = 1, kBytes = 2 };

constexpr uint32_t kEcsqMaxStreamsLog = 3;
constexpr uint32_t kTernaryMaxLayers = 3;
// At most one value in this many is an escape: beyond that raw is as small.
constexpr uint32_t kEcsqValuesPerEscape = 8;

// Quotients of positions, by multiplying with what rounds to 1 / d: half of one more than a multiple of d is
// nearer to it than any rounding error, for positions are below 2^26.
class Quotient {
 public:
  explicit Quotient(uint32_t d) : inverse_(1.0 / d) {}
  uint32_t Of(uint32_t n) const { return static_cast<uint32_t>((n + 0.5) * inverse_); }

 private:
  static_assert(uint64_t{tensor::kTileTokens} * kMaxTileHeads * kMaxTileHeadDim <= uint64_t{1} << 26);
  double inverse_;
};

// A value that its rung cannot hold, as it is.
struct EcsqEscape {
  uint32_t position = 0;  // token * elements + element
  uint16_t bits = 0;
};

struct EcsqHead {
  uint32_t streams_log = 0;
  uint32_t sections = 1;  // present: 1 for ecsq, up to layers + 1 for ternary
  bool raw = false;       // streams at fixed width
  RungForm form = RungForm::kForetold;
  bool has_escapes = false;
};

// Fields of a mode byte.
uint32_t SectionsOfMode(uint32_t mode);
uint32_t StreamsOfMode(uint32_t mode);
uint32_t ModeWithSections(uint32_t mode, uint32_t sections);

// Bounded writer. After an overflow nothing is written any more and size() is 0.
class PayloadWriter {
 public:
  explicit PayloadWriter(std::span<std::byte> out) : out_(out) {}
  void Byte(uint32_t value) {
    if (at_ == out_.size()) {
      overflow_ = true;
    } else {
      out_[at_++] = static_cast<std::byte>(value);
    }
  }
  // The lowest `bytes` of a word, at most 4.
  void Word(uint32_t word, uint32_t bytes) {
    if (out_.size() - at_ < sizeof(word)) {
      for (uint32_t i = 0; i < bytes; ++i) Byte(word >> 8 * i & 0xff);
      return;
    }
    base::StoreLe(out_.data() + at_, word);
    at_ += bytes;
  }
  void Varint(uint32_t value) {
    for (; value >= 128; value >>= 7) Byte(128 | (value & 127));
    Byte(value);
  }
  void Bytes(std::span<const std::byte> bytes);
  size_t size() const { return overflow_ ? 0 : at_; }

 private:
  std::span<std::byte> out_;
  size_t at_ = 0;
  bool overflow_ = false;
};

// Bounded reader. After a short or malformed read failed() holds and all further reads give 0.
class PayloadReader {
 public:
  explicit PayloadReader(std::span<const std::byte> in) : in_(in) {}
  uint32_t Byte() {
    const std::span<const std::byte> byte = Bytes(1);
    return byte.empty() ? 0 : static_cast<uint32_t>(byte[0]);
  }
  uint32_t Half() {  // u16, little endian
    const std::span<const std::byte> bytes = Bytes(sizeof(uint16_t));
    return bytes.empty() ? 0 : base::LoadLe<uint16_t>(bytes.data());
  }
  uint32_t Varint() {  // minimal LEB128 of up to 32 bits
    if (failed_ || in_.empty() || static_cast<uint32_t>(in_[0]) >= 128) return LongVarint();
    return Byte();
  }
  std::span<const std::byte> Bytes(size_t count) {
    if (failed_ || count > in_.size()) {
      failed_ = true;
      return {};
    }
    const std::span<const std::byte> bytes = in_.first(count);
    in_ = in_.subspan(count);
    return bytes;
  }
  std::span<const std::byte> rest() const { return in_; }
  bool failed() const { return failed_; }

 private:
  uint32_t LongVarint();

  std::span<const std::byte> in_;
  bool failed_ = false;
};

// Everything up to the lengths. ladder: [groups] indices; head_scales: [heads] with tile scales, else empty;
// escapes by rising position.
void WriteEcsqHead(const EcsqHead& head, const EcsqPlan& plan, std::span<const uint8_t> head_scales,
                   std::span<const uint8_t> ladder, std::span<const EcsqEscape> escapes,
                   PayloadWriter& writer);

// Reads and checks what WriteEcsqHead() wrote for a tile of `tokens`, behind the mode byte. `escapes` comes
// as room for EcsqEscapeRoom() of them and leaves as those that there are. kCorrupt.
base::Result<EcsqHead> ReadEcsqHead(const EcsqPlan& plan, uint32_t tokens, uint32_t max_sections,
                                    uint32_t mode, PayloadReader& reader, std::span<uint8_t> head_scales,
                                    std::span<uint8_t> ladder, std::span<EcsqEscape>& escapes);

// The most escapes that a payload of so many bytes can hold for a tile of so many values.
constexpr size_t EcsqEscapeRoom(size_t payload_bytes, size_t values) {
  return std::min(payload_bytes / 3, values / kEcsqValuesPerEscape);
}

// Puts the escapes where they belong. rows[t]: head 0 of token t.
void ApplyEscapes(const EcsqPlan& plan, std::span<const EcsqEscape> escapes, uint16_t* const* rows,
                  size_t head_stride);

// The form that holds `ladder` in the fewest bytes.
RungForm RungFormOf(const EcsqPlan& plan, std::span<const uint8_t> ladder);

}  // namespace kvplane::codec
