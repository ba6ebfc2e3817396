#include "kvplane/codec/ecsq/ecsq_payload.h"

#include <algorithm>

#include "kvplane/kernel/ecsq/ecsq_tables.h"

namespace kvplane::codec {
namespace {

// Mode byte: bits 0..1 log2 of the streams, 2..3 rung form, 4 escapes, 5 raw, 6..7 sections - 1.
constexpr uint32_t kFormShift = 2;
constexpr uint32_t kEscapesBit = 1u << 4;
constexpr uint32_t kRawBit = 1u << 5;
constexpr uint32_t kSectionsShift = 6;

constexpr int32_t kMinNibble = -8;
constexpr int32_t kMaxNibble = 7;

int32_t Difference(const EcsqPlan& plan, std::span<const uint8_t> ladder, size_t g) {
  return int32_t{ladder[g]} - int32_t{plan.foretold[g]};
}

base::Status ReadRungs(const EcsqPlan& plan, RungForm form, PayloadReader& reader,
                       std::span<uint8_t> ladder) {
  if (plan.foretold.size() != ladder.size() && form != RungForm::kBytes) {
    return base::Corrupt("ecsq: rungs relative to a profile, of which there is none");
  }
  switch (form) {
    case RungForm::kForetold:
      std::copy(plan.foretold.begin(), plan.foretold.end(), ladder.begin());
      return base::Status::Ok();
    case RungForm::kNibbles:
      for (size_t g = 0; g < ladder.size(); g += 2) {
        const uint32_t pair = reader.Byte();
        for (size_t i = g; i < std::min(g + 2, ladder.size()); ++i) {
          const auto nibble = static_cast<int32_t>(pair >> (i == g ? 0 : 4) & 15);
          const int32_t index = plan.foretold[i] + (nibble > kMaxNibble ? nibble - 16 : nibble);
          if (index < 0 || index >= static_cast<int32_t>(kernel::kEcsqLadder)) {
            return base::Corrupt("ecsq: group {} has rung {}", i, index);
          }
          ladder[i] = static_cast<uint8_t>(index);
        }
        if (g + 1 == ladder.size() && pair >> 4 != 0) return base::Corrupt("ecsq: a rung beyond the last");
      }
      return base::Status::Ok();
    case RungForm::kBytes:
      for (uint8_t& index : ladder) {
        index = static_cast<uint8_t>(reader.Byte());
        if (index >= kernel::kEcsqLadder) return base::Corrupt("ecsq: rung {}", index);
      }
      return base::Status::Ok();
  }
  return base::Corrupt("ecsq: unknown rung form {}", static_cast<uint32_t>(form));
}

struct GapAndBits {
  uint32_t gap;
  uint32_t bits;
};
// Gaps take one byte or two, by chance: without branches.
GapAndBits ReadEscape(PayloadReader& reader) {
  const std::span<const std::byte> rest = reader.rest();
  if (rest.size() >= sizeof(uint32_t)) {
    const auto word = base::LoadLe<uint32_t>(rest.data());
    const uint32_t second = word >> 7 & 1;  // byte of the gap
    const uint32_t high = word >> 8 & 0xff & (0 - second);
    if (high < 128 && high >= second) {
      reader.Bytes(3 + second);
      return {(word & 127) | high << 7, word >> (8 + 8 * second) & 0xffff};
    }
  }
  const uint32_t gap = reader.Varint();
  return {gap, reader.Half()};
}

void WriteEscape(uint32_t gap, uint32_t bits, PayloadWriter& writer) {
  if (gap < 1u << 14) {
    const uint32_t second = gap < 128 ? 0 : 1;
    const uint32_t number = (gap & 127) | second << 7 | gap >> 7 << 8;
    writer.Word(number | bits << (8 + 8 * second), 3 + second);
    return;
  }
  writer.Varint(gap);
  writer.Byte(bits & 0xff);
  writer.Byte(bits >> 8);
}

base::Status ReadEscapes(const EcsqPlan& plan, uint32_t tokens, PayloadReader& reader,
                         std::span<EcsqEscape>& escapes) {
  const uint64_t values = uint64_t{tokens} * plan.elements;
  const uint32_t count = reader.Varint();
  if (count == 0 || count > values / kEcsqValuesPerEscape) {
    return base::Corrupt("ecsq: {} escapes in {} values", count, values);
  }
  if (count > escapes.size()) return base::Corrupt("ecsq: {} escapes end beyond the payload", count);
  escapes = escapes.first(count);
  uint64_t next = 0;
  for (EcsqEscape& escape : escapes) {
    const auto [gap, bits] = ReadEscape(reader);
    next += uint64_t{gap} + 1;
    if (next > values || (bits & 0x7fff) >= kernel::kRansMagnitudeLimit) {
      return base::Corrupt("ecsq: an escape at {} of {} values holds {:#06x}", next - 1, values, bits);
    }
    escape = {static_cast<uint32_t>(next - 1), static_cast<uint16_t>(bits)};
  }
  return base::Status::Ok();
}

}  // namespace

uint32_t SectionsOfMode(uint32_t mode) { return 1 + (mode >> kSectionsShift & 3); }
uint32_t StreamsOfMode(uint32_t mode) { return 1u << (mode & 3); }
uint32_t ModeWithSections(uint32_t mode, uint32_t sections) {
  return (mode & ((1u << kSectionsShift) - 1)) | (sections - 1) << kSectionsShift;
}

void PayloadWriter::Bytes(std::span<const std::byte> bytes) {
  if (bytes.size() > out_.size() - at_) {
    overflow_ = true;
    return;
  }
  std::copy(bytes.begin(), bytes.end(), out_.begin() + static_cast<ptrdiff_t>(at_));
  at_ += bytes.size();
}

uint32_t PayloadReader::LongVarint() {
  uint32_t value = 0;
  for (uint32_t shift = 0; shift < 32; shift += 7) {
    const uint32_t byte = Byte();
    if (failed_ || (shift == 28 && byte > 15) || (shift > 0 && byte == 0)) break;
    value |= (byte & 127) << shift;
    if (byte < 128) return value;
  }
  failed_ = true;
  return 0;
}

void WriteEcsqHead(const EcsqHead& head, const EcsqPlan& plan, std::span<const uint8_t> head_scales,
                   std::span<const uint8_t> ladder, std::span<const EcsqEscape> escapes,
                   PayloadWriter& writer) {
  writer.Byte(head.streams_log | static_cast<uint32_t>(head.form) << kFormShift |
              (head.has_escapes ? kEscapesBit : 0) | (head.raw ? kRawBit : 0) |
              (head.sections - 1) << kSectionsShift);
  for (const uint8_t scale : head_scales) writer.Byte(scale);
  if (head.form == RungForm::kBytes) {
    for (const uint8_t index : ladder) writer.Byte(index);
  } else if (head.form == RungForm::kNibbles) {
    for (size_t g = 0; g < ladder.size(); g += 2) {
      const auto low = static_cast<uint32_t>(Difference(plan, ladder, g)) & 15;
      const uint32_t high =
          g + 1 < ladder.size() ? static_cast<uint32_t>(Difference(plan, ladder, g + 1)) & 15 : 0;
      writer.Byte(low | high << 4);
    }
  }
  if (!head.has_escapes) return;
  writer.Varint(static_cast<uint32_t>(escapes.size()));
  uint32_t next = 0;
  for (const EcsqEscape& escape : escapes) {
    WriteEscape(escape.position - next, escape.bits, writer);
    next = escape.position + 1;
  }
}

base::Result<EcsqHead> ReadEcsqHead(const EcsqPlan& plan, uint32_t tokens, uint32_t max_sections,
                                    uint32_t mode, PayloadReader& reader, std::span<uint8_t> head_scales,
                                    std::span<uint8_t> ladder, std::span<EcsqEscape>& escapes) {
  EcsqHead head;
  head.streams_log = mode & 3;
  head.form = static_cast<RungForm>(mode >> kFormShift & 3);
  head.has_escapes = (mode & kEscapesBit) != 0;
  head.raw = (mode & kRawBit) != 0;
  head.sections = SectionsOfMode(mode);
  if (head.sections > max_sections || tokens % (1u << head.streams_log) != 0 ||
      (head.raw && (head.streams_log != 0 || plan.lanes == 0)) ||
      (plan.lanes == 0 && head.streams_log != 0)) {
    return base::Corrupt("ecsq: mode {:#04x} for {} tokens of {} lanes", mode, tokens, plan.lanes);
  }
  for (uint8_t& scale : head_scales) scale = static_cast<uint8_t>(reader.Byte());
  KVPLANE_RETURN_IF_ERROR(ReadRungs(plan, head.form, reader, ladder));
  if (head.has_escapes) {
    KVPLANE_RETURN_IF_ERROR(ReadEscapes(plan, tokens, reader, escapes));
  } else {
    escapes = {};
  }
  if (reader.failed()) return base::Corrupt("ecsq: the payload ends in its head");
  return head;
}

void ApplyEscapes(const EcsqPlan& plan, std::span<const EcsqEscape> escapes, uint16_t* const* rows,
                  size_t head_stride) {
  const Quotient by_elements(plan.elements);
  const Quotient by_head_dim(plan.rows.head_dim);
  for (const EcsqEscape& escape : escapes) {
    const uint32_t token = by_elements.Of(escape.position);
    const uint32_t element = escape.position - token * plan.elements;
    const uint32_t head = by_head_dim.Of(element);
    rows[token][head * head_stride + (element - head * plan.rows.head_dim)] = escape.bits;
  }
}

RungForm RungFormOf(const EcsqPlan& plan, std::span<const uint8_t> ladder) {
  if (plan.foretold.size() != ladder.size()) return RungForm::kBytes;
  RungForm form = RungForm::kForetold;
  for (size_t g = 0; g < ladder.size(); ++g) {
    const int32_t difference = Difference(plan, ladder, g);
    if (difference < kMinNibble || difference > kMaxNibble) return RungForm::kBytes;
    if (difference != 0) form = RungForm::kNibbles;
  }
  return form;
}

}  // namespace kvplane::codec
