#include "kvplane/codec/ecsq/ternary_coder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "kvplane/codec/ecsq/ecsq_choice.h"
#include "kvplane/codec/ecsq/ecsq_lanes.h"
#include "kvplane/codec/ecsq/ecsq_payload.h"
#include "kvplane/codec/ecsq/ecsq_stage.h"
#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/kernel/ecsq/ternary.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

constexpr int32_t kPowerOfThree[] = {1, 3, 9, 27};
// Rungs, quarter octaves, by which n refinements make a deviation wider: 4 log2(3^n), rounded.
constexpr uint32_t kRungsOfThree[] = {0, 6, 13};
constexpr size_t kMaxHeadPrefix = 1 + 5;  // mode and the length of what follows

// The levels of a tile at every quality, and where its lanes lie in a row.
class Levels {
 public:
  Levels(const EcsqPlan& plan, uint32_t tokens, uint32_t sections, size_t head_stride, Workspace& workspace)
      : plan_(plan), tokens_(tokens) {
    section_ = size_t{tokens} * plan.groups() * kernel::kRansLanes;
    const size_t bytes = sections * section_ * sizeof(int16_t) + plan.lanes * sizeof(uint32_t);
    std::byte* memory = workspace.Scratch(bytes, Workspace::Use::kSymbols).data();
    levels_ = reinterpret_cast<int16_t*>(memory);
    offsets_ = reinterpret_cast<uint32_t*>(memory + sections * section_ * sizeof(int16_t));
    const uint32_t head_dim = plan.rows.head_dim;
    for (uint32_t lane = 0; lane < plan.lanes; ++lane) {
      const uint32_t element = plan.element_of_lane[lane];
      offsets_[lane] = static_cast<uint32_t>(element / head_dim * head_stride + element % head_dim);
    }
  }
  int16_t* Of(uint32_t section) { return levels_ + section * section_; }
  uint32_t offset(uint32_t lane) const { return offsets_[lane]; }
  size_t size() const { return section_; }
  uint32_t tokens() const { return tokens_; }
  const EcsqPlan& plan() const { return plan_; }

 private:
  const EcsqPlan& plan_;
  uint32_t tokens_;
  size_t section_ = 0;
  int16_t* levels_ = nullptr;
  uint32_t* offsets_ = nullptr;
};

// One group of one token to levels of the finest step. False: a value without a level.
bool QuantizeGroup(const uint16_t* row, const uint32_t* offsets, uint32_t live,
                   const kernel::RansScale& scale, float lowest, float highest, float* largest,
                   int16_t* levels) {
  uint16_t magnitude = 0;
  for (uint32_t lane = 0; lane < live; ++lane) {
    const uint16_t bits = row[offsets[lane]];
    magnitude = std::max(magnitude, static_cast<uint16_t>(bits & 0x7fff));
    const uint32_t i = kernel::RansScale::index(lane);
    const float centred = tensor::Bf16ToFloat(bits) - scale.mean[i];
    const float scaled = centred * scale.inverse_step[i];
    largest[i] = std::max(largest[i], std::fabs(scaled));
    const float clamped = std::min(std::max(scaled, lowest), highest);
    constexpr float kMagic = 0x1.8p23f;  // adding it rounds to nearest even and leaves the integer below
    levels[lane] =
        static_cast<int16_t>(std::bit_cast<int32_t>(clamped + kMagic) - std::bit_cast<int32_t>(kMagic));
  }
  return magnitude < kernel::kRansMagnitudeLimit;
}

bool Quantize(const uint16_t* const* rows, std::span<const uint8_t> ladder, int32_t unit, float* largest,
              uint32_t finest, Levels& levels) {
  const EcsqPlan& plan = levels.plan();
  std::fill_n(levels.Of(finest), levels.size(), int16_t{0});
  for (uint32_t t = 0; t < levels.tokens(); ++t) {
    for (uint32_t g = 0; g < plan.groups(); ++g) {
      const uint32_t first = g * kernel::kRansLanes;
      uint32_t offsets[kernel::kRansLanes];
      const uint32_t live = std::min(kernel::kRansLanes, plan.lanes - first);
      for (uint32_t lane = 0; lane < live; ++lane) offsets[lane] = levels.offset(first + lane);
      const kernel::RansRung rung = kernel::RansLadderRung(ladder[g]);
      const auto lowest = static_cast<float>(rung.min_level() * unit - unit / 2);
      const auto highest = static_cast<float>(rung.max_level() * unit + unit / 2);
      int16_t* const to = levels.Of(finest) + (size_t{t} * plan.groups() + g) * kernel::kRansLanes;
      if (!QuantizeGroup(rows[t], offsets, live, plan.scales[g], lowest, highest, largest + first, to)) {
        return false;
      }
    }
  }
  return true;
}

// The level whose bin of three holds level q.
void MakeParents(const int16_t* levels, size_t count, int16_t* parents) {
  constexpr uint32_t kOffset = 30000;  // a multiple of 3, to divide what is not negative
  for (size_t i = 0; i < count; ++i) {
    const auto shifted = static_cast<uint32_t>(levels[i] + 1 + static_cast<int32_t>(kOffset));
    parents[i] = static_cast<int16_t>(static_cast<int32_t>(shifted / 3) - static_cast<int32_t>(kOffset / 3));
  }
}

// Values of levels that are `unit` steps each; the arithmetic of docs/formats/rans.md, section 7.
void Dequantize(int32_t unit, uint32_t section, Levels& levels, uint16_t* const* rows) {
  const EcsqPlan& plan = levels.plan();
  for (uint32_t g = 0; g < plan.groups(); ++g) {
    const uint32_t first = g * kernel::kRansLanes;
    for (uint32_t lane = first; lane < std::min(first + kernel::kRansLanes, plan.lanes); ++lane) {
      const uint32_t i = kernel::RansScale::index(lane - first);
      const float step = plan.scales[g].step[i];
      const float mean = plan.scales[g].mean[i];
      const int16_t* level = levels.Of(section) + lane;
      for (uint32_t t = 0; t < levels.tokens(); ++t, level += plan.groups() * kernel::kRansLanes) {
        const float scaled = static_cast<float>(*level * unit) * step;
        const float value = scaled + mean;
        const bool subnormal = std::fabs(value) < 0x1p-126f;
        rows[t][levels.offset(lane)] = tensor::FloatToBf16(subnormal ? std::copysign(0.0f, value) : value);
      }
    }
  }
}

// The tables of refinement `index`, from 0.
void TablesOf(std::span<const uint8_t> ladder, uint32_t index, uint8_t* tables) {
  for (size_t g = 0; g < ladder.size(); ++g) {
    tables[g] = static_cast<uint8_t>(
        std::min<uint32_t>(ladder[g] + kRungsOfThree[index], kernel::kTernaryTables - 1));
  }
}

struct Streams {
  uint32_t count;
  uint32_t tokens;        // of each
  size_t levels;          // of each
  const uint8_t* tables;  // of the refinement at hand
};

// Section `section` of levels into `writer`: lengths, then streams. `memory`: room for its streams.
void WriteSection(const Streams& streams, const kernel::RansShape& shape, uint32_t section, Levels& levels,
                  std::byte* memory, PayloadWriter& writer) {
  std::span<const std::byte> coded[kernel::kRansMaxStreams];
  if (shape.channels > 0) {
    const kernel::TernaryShape ternary{streams.tokens, shape.channels, streams.tables};
    const size_t capacity =
        std::max(kernel::RansMaxStreamBytes(shape), kernel::TernaryMaxStreamBytes(ternary));
    for (uint32_t v = 0; v < streams.count; ++v) {
      std::byte* const end = memory + (v + 1) * capacity;
      const int16_t* from = levels.Of(section) + v * streams.levels;
      if (section == 0) {
        size_t size = 0;
        kernel::Rans().encode_levels(shape, 1, &from, &end, &size);
        coded[v] = {end - size, size};
      } else {
        const int16_t* parents = levels.Of(section - 1) + v * streams.levels;
        const std::byte* begin = kernel::Ternary().encode(ternary, parents, from, end);
        coded[v] = {begin, end};
      }
    }
  }
  for (uint32_t v = 0; v < streams.count; ++v) writer.Varint(static_cast<uint32_t>(coded[v].size()));
  for (uint32_t v = 0; v < streams.count; ++v) writer.Bytes(coded[v]);
}

// The streams of the next section; false: malformed.
bool ReadSection(uint32_t count, PayloadReader& reader, std::span<const std::byte>* streams) {
  size_t lengths[kernel::kRansMaxStreams] = {};
  for (uint32_t v = 0; v < count; ++v) lengths[v] = reader.Varint();
  for (uint32_t v = 0; v < count; ++v) streams[v] = reader.Bytes(lengths[v]);
  return !reader.failed();
}

}  // namespace

TernaryCoder::TernaryCoder(Chain chain, tensor::Side side, std::shared_ptr<const ModelProfile> profile)
    : plans_(chain, side, std::move(profile)) {}

size_t TernaryCoder::LeastBytes(const TileShape&) const { return 2; }

size_t TernaryCoder::Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                            std::span<std::byte> out) const {
  const std::shared_ptr<const EcsqPlan> plan = plans_.Of(context, ShapeOf(in));
  if (plan == nullptr || out.size() <= kMaxHeadPrefix) return 0;
  const uint32_t layers = plans_.config().layers;
  const int32_t unit = kPowerOfThree[layers];
  const TokenRows<const uint16_t> tokens(in);
  EcsqChoice choice;
  if (!ChooseEcsq(*plan, plans_.config(), in, tokens.rows.data(), workspace, choice)) return 0;
  choice.head.sections = layers + 1;

  Levels levels(*plan, in.tokens, layers + 1, in.head_stride, workspace);
  if (!Quantize(tokens.rows.data(), choice.ladder, unit, choice.lane_largest.data(), layers, levels)) {
    return 0;
  }
  for (uint32_t s = layers; s > 0; --s) MakeParents(levels.Of(s), levels.size(), levels.Of(s - 1));
  const EcsqLaneTables tables = MakeLaneTables(*plan, choice.ladder, {}, workspace);
  EcsqLaneTables plain = tables;
  plain.scales = plan->scales.data();
  if (!FindEscapes(*plan, plain, layers, in, tokens.rows.data(), choice)) return 0;

  // The head behind the widest prefix, then moved up to the one it takes.
  PayloadWriter head(out.subspan(kMaxHeadPrefix));
  WriteEcsqHead(choice.head, *plan, {}, choice.ladder, choice.escapes, head);
  if (head.size() == 0) return 0;
  PayloadWriter writer(out);
  const std::span<const std::byte> body(out.data() + kMaxHeadPrefix + 1, head.size() - 1);
  writer.Byte(static_cast<uint32_t>(out[kMaxHeadPrefix]));
  writer.Varint(static_cast<uint32_t>(body.size()));
  writer.Bytes(body);

  Streams streams{1u << choice.head.streams_log, in.tokens >> choice.head.streams_log, 0, nullptr};
  streams.levels = size_t{streams.tokens} * plan->groups() * kernel::kRansLanes;
  const kernel::RansShape shape = tables.Shape(*plan, streams.tokens);
  const size_t capacity = kernel::kRansStateBytes + size_t{streams.tokens} * plan->lanes +
                          (plan->lanes > 0 ? kernel::RansBypassBytes(shape) : 0);
  std::byte* const memory =
      workspace.Scratch(streams.count * capacity + plan->groups(), Workspace::Use::kStreams).data();
  auto* const refined = reinterpret_cast<uint8_t*>(memory + streams.count * capacity);
  streams.tables = refined;
  for (uint32_t s = 0; s <= layers; ++s) {
    if (s > 0) TablesOf(choice.ladder, s - 1, refined);
    WriteSection(streams, shape, s, levels, memory, writer);
  }
  return writer.size() < out.size() ? writer.size() : 0;
}

base::Status TernaryCoder::Decode(const TileContext& context, std::span<const std::byte> in,
                                  Workspace& workspace, const tensor::TileView& out) const {
  const std::shared_ptr<const EcsqPlan> plan = plans_.Of(context, ShapeOf(out));
  if (plan == nullptr) return base::FailedPrecondition("ternary: the profile does not fit the tile");
  const uint32_t layers = plans_.config().layers;
  const size_t room = EcsqEscapeRoom(in.size());
  const std::span<std::byte> memory =
      workspace.Scratch(room * sizeof(EcsqEscape) + 2 * size_t{plan->groups()}, Workspace::Use::kQuantizer);
  std::span<EcsqEscape> escapes(reinterpret_cast<EcsqEscape*>(memory.data()), room);
  const std::span<uint8_t> ladder(reinterpret_cast<uint8_t*>(memory.data() + room * sizeof(EcsqEscape)),
                                  plan->groups());
  uint8_t* const refined = ladder.data() + ladder.size();

  // Mode and head length, then the rest of the head, which ends where that says.
  PayloadReader reader(in);
  const uint32_t mode = reader.Byte();
  const uint32_t head_bytes = reader.Varint();
  const std::span<const std::byte> body = reader.Bytes(head_bytes);
  if (reader.failed()) return base::Corrupt("ternary: the payload ends in its head");
  PayloadReader head_reader(body);
  KVPLANE_ASSIGN_OR_RETURN(const EcsqHead head, ReadEcsqHead(*plan, out.tokens, layers + 1, mode, head_reader,
                                                             {}, ladder, escapes));
  if (!head_reader.rest().empty() || head.raw)
    return base::Corrupt("ternary: mode {:#04x}, head of {} bytes", mode, head_bytes);

  const uint32_t count = 1u << head.streams_log;
  Levels levels(*plan, out.tokens, 1, out.head_stride, workspace);
  const EcsqLaneTables tables = MakeLaneTables(*plan, ladder, {}, workspace);
  const uint32_t stream_tokens = out.tokens >> head.streams_log;
  const size_t stream_levels = size_t{stream_tokens} * plan->groups() * kernel::kRansLanes;
  for (uint32_t s = 0; s < head.sections; ++s) {
    std::span<const std::byte> streams[kernel::kRansMaxStreams];
    if (!ReadSection(count, reader, streams)) return base::Corrupt("ternary: section {} is cut off", s);
    if (plan->lanes == 0) {
      if (!streams[0].empty()) return base::Corrupt("ternary: a stream of no lanes");
      continue;
    }
    if (s > 0) TablesOf(ladder, s - 1, refined);
    const kernel::RansShape shape = tables.Shape(*plan, stream_tokens);
    for (uint32_t v = 0; v < count; ++v) {
      int16_t* const to = levels.Of(0) + v * stream_levels;
      const bool whole =
          s == 0 ? kernel::Rans().decode_levels(shape, 1, &streams[v], &to) == 0
                 : kernel::Ternary().decode({stream_tokens, plan->lanes, refined}, streams[v], to);
      if (!whole) return base::Corrupt("ternary: stream {} of section {} does not end as it must", v, s);
    }
  }
  if (!reader.rest().empty()) return base::Corrupt("ternary: {} bytes too many", reader.rest().size());

  const TokenRows<uint16_t> tokens(out);
  const uint32_t refinements = head.sections - 1;
  Dequantize(kPowerOfThree[layers - refinements], 0, levels, tokens.rows.data());
  FillDropped(*plan, out, tokens.rows.data());
  ApplyEscapes(*plan, escapes, tokens.rows.data(), out.head_stride);
  return base::Status::Ok();
}

base::Result<size_t> TruncateNested(std::span<std::byte> payload, uint32_t sections) {
  PayloadReader reader(payload);
  const uint32_t mode = reader.Byte();
  const uint32_t present = SectionsOfMode(mode);
  reader.Bytes(reader.Varint());
  if (sections < 1 || sections > present) {
    return base::InvalidArgument("{} sections of a payload that has {}", sections, present);
  }
  std::span<const std::byte> streams[kernel::kRansMaxStreams];
  for (uint32_t s = 0; s < sections; ++s) {
    if (!ReadSection(StreamsOfMode(mode), reader, streams)) {
      return base::Corrupt("ternary: section {} is cut off", s);
    }
  }
  if (sections == present && !reader.rest().empty()) {
    return base::Corrupt("ternary: {} bytes too many", reader.rest().size());
  }
  payload[0] = static_cast<std::byte>(ModeWithSections(mode, sections));
  return payload.size() - reader.rest().size();
}

}  // namespace kvplane::codec
