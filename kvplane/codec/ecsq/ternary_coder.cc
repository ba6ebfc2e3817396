#include "kvplane/codec/ecsq/ternary_coder.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "kvplane/codec/ecsq/ecsq_choice.h"
#include "kvplane/codec/ecsq/ecsq_lanes.h"
#include "kvplane/codec/ecsq/ecsq_payload.h"
#include "kvplane/codec/ecsq/ecsq_stage.h"
#include "kvplane/codec/page_stores.h"
#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/kernel/ecsq/nested_rows.h"
#include "kvplane/kernel/ecsq/ternary.h"

namespace kvplane::codec {
namespace {

static_assert(kTernaryMaxLayers == kernel::kNestedMaxLayers);
// Rungs, quarter octaves, by which n refinements make a deviation wider: 4 log2(3^n), rounded.
constexpr uint32_t kRungsOfThree[] = {0, 6, 13};
constexpr size_t kMaxHeadPrefix = 1 + 5;  // mode and the length of what follows

// The levels of a tile at every quality.
class Levels {
 public:
  Levels(const EcsqPlan& plan, uint32_t tokens, uint32_t sections, Workspace& workspace)
      : section_(size_t{tokens} * plan.groups() * kernel::kRansLanes),
        levels_(reinterpret_cast<int16_t*>(
            workspace.Scratch(sections * section_ * sizeof(int16_t), Workspace::Use::kSymbols).data())) {}
  int16_t* Of(uint32_t section) { return levels_ + section * section_; }

 private:
  size_t section_;
  int16_t* levels_;
};

// The streams of a tile, section after section: the base's, then those of each refinement.
struct NestedStreams {
  // memory: room for the tables of all refinements, TableBytes().
  NestedStreams(const EcsqPlan& plan, const EcsqLaneTables& lane_tables, std::span<const uint8_t> ladder,
                uint32_t tokens, uint32_t streams_log, uint32_t sections_in, uint8_t* memory)
      : shape(lane_tables.Shape(plan, tokens >> streams_log)),
        count(1u << streams_log),
        sections(sections_in),
        stream_levels(shape.steps() * kernel::kRansLanes) {
    for (uint32_t s = 1; s < sections; ++s, memory += ladder.size()) {
      for (size_t g = 0; g < ladder.size(); ++g) {
        memory[g] = static_cast<uint8_t>(
            std::min<uint32_t>(ladder[g] + kRungsOfThree[s - 1], kernel::kTernaryTables - 1));
      }
      std::fill_n(tables + (s - 1) * count, count, memory);
    }
  }
  static size_t TableBytes(const EcsqPlan& plan, uint32_t layers) { return size_t{layers} * plan.groups(); }

  uint32_t refinements() const { return (sections - 1) * count; }
  kernel::TernaryShape ternary() const { return {shape.tokens, shape.channels}; }

  kernel::RansShape shape;  // of each
  uint32_t count;           // per section
  uint32_t sections;
  size_t stream_levels;
  const uint8_t* tables[kernel::kTernaryMaxStreams];  // [refinements()]
};

// All sections into `writer`: of each the lengths, then the streams. `memory`: room for all streams, of
// `capacity` each.
void WriteSections(const NestedStreams& streams, Levels& levels, std::byte* memory, size_t capacity,
                   PayloadWriter& writer) {
  constexpr uint32_t kMost = kernel::kRansMaxStreams + kernel::kTernaryMaxStreams;
  size_t sizes[kMost] = {};
  std::byte* ends[kMost] = {};
  const int16_t* of[kMost];
  const uint32_t count = streams.count;
  for (uint32_t i = 0; i < streams.sections * count; ++i) {
    ends[i] = memory + (i + 1) * capacity;
    of[i] = levels.Of(i / count) + i % count * streams.stream_levels;
  }
  if (streams.shape.channels > 0) {
    kernel::Rans().encode_levels(streams.shape, count, of, ends, sizes);
    // A refinement's parents are the levels of the section before.
    kernel::Ternary().encode(streams.ternary(), streams.refinements(), streams.tables, of, of + count,
                             ends + count, sizes + count);
  }
  for (uint32_t s = 0; s < streams.sections; ++s) {
    for (uint32_t v = s * count; v < (s + 1) * count; ++v) writer.Varint(static_cast<uint32_t>(sizes[v]));
    for (uint32_t v = s * count; v < (s + 1) * count; ++v) writer.Bytes({ends[v] - sizes[v], sizes[v]});
  }
}

// The streams of the next section; false: malformed.
bool ReadSection(uint32_t count, PayloadReader& reader, std::span<const std::byte>* streams) {
  size_t lengths[kernel::kRansMaxStreams] = {};
  for (uint32_t v = 0; v < count; ++v) lengths[v] = reader.Varint();
  for (uint32_t v = 0; v < count; ++v) streams[v] = reader.Bytes(lengths[v]);
  return !reader.failed();
}

// All sections from `reader` to the levels of the last one.
base::Status ReadSections(const NestedStreams& streams, PayloadReader& reader, Levels& levels) {
  constexpr uint32_t kMost = kernel::kRansMaxStreams + kernel::kTernaryMaxStreams;
  std::span<const std::byte> coded[kMost];
  int16_t* to[kMost];
  const uint32_t count = streams.count;
  for (uint32_t s = 0; s < streams.sections; ++s) {
    if (!ReadSection(count, reader, coded + s * count)) {
      return base::Corrupt("ternary: section {} is cut off", s);
    }
    for (uint32_t v = 0; v < count; ++v) to[s * count + v] = levels.Of(0) + v * streams.stream_levels;
    if (streams.shape.channels == 0 && !coded[s * count].empty()) {
      return base::Corrupt("ternary: a stream of no lanes");
    }
  }
  if (!reader.rest().empty()) return base::Corrupt("ternary: {} bytes too many", reader.rest().size());
  if (streams.shape.channels == 0) return base::Status::Ok();
  uint64_t corrupt = kernel::Rans().decode_levels(streams.shape, count, coded, to);
  if (corrupt == 0) {
    corrupt = uint64_t{kernel::Ternary().decode(streams.ternary(), streams.refinements(), streams.tables,
                                                coded + count, to + count)}
              << count;
  }
  if (corrupt == 0) return base::Status::Ok();
  const auto first = static_cast<uint32_t>(std::countr_zero(corrupt));
  return base::Corrupt("ternary: stream {} of section {} does not end as it must", first % count,
                       first / count);
}

}  // namespace

TernaryCoder::TernaryCoder(Chain chain, tensor::Side side, std::shared_ptr<const ModelProfile> profile)
    : chain_(chain), plans_(chain, side, std::move(profile)) {}

size_t TernaryCoder::LeastBytes(const TileShape&) const { return 2; }

size_t TernaryCoder::Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                            std::span<std::byte> out) const {
  const std::shared_ptr<const EcsqPlan> plan = plans_.Of(context, ShapeOf(in));
  if (plan == nullptr || out.size() <= kMaxHeadPrefix) return 0;
  const uint32_t layers = plans_.config().layers;
  const TokenRows<const uint16_t> tokens(in);
  EcsqChoice choice;
  if (!ChooseEcsq(*plan, plans_.config(), in, tokens.rows.data(), workspace, choice)) return 0;
  choice.head.sections = layers + 1;

  Levels levels(*plan, in.tokens, layers + 1, workspace);
  const EcsqLaneTables tables = MakeLaneTables(*plan, choice.ladder, {}, workspace);
  if (plan->lanes > 0) {
    kernel::RansRows layout = tables.Rows(*plan, in.head_stride);
    layout.largest = choice.lane_largest.data();
    int16_t* of[kTernaryMaxLayers + 1];
    for (uint32_t s = 0; s <= layers; ++s) of[s] = levels.Of(s);
    if (!kernel::NestedRows().to_levels(tables.Shape(*plan, in.tokens), layout, layers, tokens.rows.data(),
                                        of)) {
      return 0;
    }
  }
  if (!FindEscapes(*plan, tables, layers, in, tokens.rows.data(), choice)) return 0;

  // The head behind the widest prefix, then moved up to the one it takes.
  PayloadWriter head(out.subspan(kMaxHeadPrefix));
  WriteEcsqHead(choice.head, *plan, {}, choice.ladder, choice.escapes, head);
  if (head.size() == 0) return 0;
  PayloadWriter writer(out);
  const std::span<const std::byte> body(out.data() + kMaxHeadPrefix + 1, head.size() - 1);
  writer.Byte(static_cast<uint32_t>(out[kMaxHeadPrefix]));
  writer.Varint(static_cast<uint32_t>(body.size()));
  writer.Bytes(body);

  const size_t table_bytes = NestedStreams::TableBytes(*plan, layers);
  const uint32_t streams_log = choice.head.streams_log;
  const kernel::RansShape shape = tables.Shape(*plan, in.tokens >> streams_log);
  const size_t capacity = kernel::kRansStateBytes + size_t{shape.tokens} * shape.channels +
                          (shape.channels > 0 ? kernel::RansBypassBytes(shape) : 0);
  std::byte* const memory =
      workspace
          .Scratch(table_bytes + (size_t{layers + 1} << streams_log) * capacity, Workspace::Use::kStreams)
          .data();
  const NestedStreams streams(*plan, tables, choice.ladder, in.tokens, streams_log, layers + 1,
                              reinterpret_cast<uint8_t*>(memory));
  WriteSections(streams, levels, memory + table_bytes, capacity, writer);
  return writer.size() < out.size() ? writer.size() : 0;
}

base::Status TernaryCoder::Decode(const TileContext& context, std::span<const std::byte> in,
                                  Workspace& workspace, const tensor::TileView& out) const {
  const std::shared_ptr<const EcsqPlan> plan = plans_.Of(context, ShapeOf(out));
  if (plan == nullptr) return base::FailedPrecondition("ternary: the profile does not fit the tile");
  const uint32_t layers = plans_.config().layers;
  const size_t room = EcsqEscapeRoom(in.size(), out.values());
  const std::span<std::byte> memory =
      workspace.Scratch(room * sizeof(EcsqEscape) + plan->groups() + NestedStreams::TableBytes(*plan, layers),
                        Workspace::Use::kQuantizer);
  std::span<EcsqEscape> escapes(reinterpret_cast<EcsqEscape*>(memory.data()), room);
  const std::span<uint8_t> ladder(reinterpret_cast<uint8_t*>(memory.data() + room * sizeof(EcsqEscape)),
                                  plan->groups());

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

  Levels levels(*plan, out.tokens, 1, workspace);
  const EcsqLaneTables tables = MakeLaneTables(*plan, ladder, {}, workspace);
  const NestedStreams streams(*plan, tables, ladder, out.tokens, head.streams_log, head.sections,
                              ladder.data() + ladder.size());
  KVPLANE_RETURN_IF_ERROR(ReadSections(streams, reader, levels));

  const TokenRows<uint16_t> tokens(out);
  const uint32_t refinements = head.sections - 1;
  if (plan->lanes == 0) {
    FillDropped(*plan, out, tokens.rows.data());
  } else {
    kernel::RansRows layout = tables.Rows(*plan, out.head_stride);
    layout.streaming_stores = WritesAroundCaches(chain_, out);
    kernel::NestedRows().from_levels(tables.Shape(*plan, out.tokens), layout, layers - refinements,
                                     levels.Of(0), tokens.rows.data());
  }
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
