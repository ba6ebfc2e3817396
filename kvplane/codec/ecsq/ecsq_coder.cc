#include "kvplane/codec/ecsq/ecsq_coder.h"

#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/codec/ecsq/ecsq_bytes.h"
#include "kvplane/codec/ecsq/ecsq_choice.h"
#include "kvplane/codec/ecsq/ecsq_lanes.h"
#include "kvplane/codec/page_stores.h"
#include "kvplane/kernel/ecsq/ecsq_tables.h"
#include "kvplane/kernel/rans/rans.h"
#include "kvplane/kernel/rans/rans_bytes.h"

namespace kvplane::codec {
namespace {

// The streams of one payload: how they lie and in which form.
struct Streams {
  uint32_t count = 0;
  kernel::RansShape shape;
  std::span<const std::byte> bytes[kernel::kRansMaxStreams];
};

// Room for streams that a kernel writes from their ends.
struct StreamEnds {
  StreamEnds(const Streams& streams, Workspace& workspace) {
    const size_t capacity = kernel::RansMaxStreamBytes(streams.shape);
    std::byte* const memory = workspace.Scratch(streams.count * capacity, Workspace::Use::kStreams).data();
    for (uint32_t v = 0; v < streams.count; ++v) ends[v] = memory + (v + 1) * capacity;
  }
  void Take(Streams& streams) const {
    for (uint32_t v = 0; v < streams.count; ++v) streams.bytes[v] = {ends[v] - sizes[v], sizes[v]};
  }
  std::byte* ends[kernel::kRansMaxStreams];
  size_t sizes[kernel::kRansMaxStreams] = {};
};

// levels: [tokens, lanes].
void EncodeLevels(const int8_t* levels, uint32_t lanes, Workspace& workspace, Streams& streams) {
  StreamEnds room(streams, workspace);
  const int8_t* parts[kernel::kRansMaxStreams];
  for (uint32_t v = 0; v < streams.count; ++v) parts[v] = levels + size_t{v} * streams.shape.tokens * lanes;
  kernel::RansBytes()->encode(streams.shape, streams.count, parts, room.ends, room.sizes);
  room.Take(streams);
}

bool EncodeRows(const kernel::RansRows& layout, const uint16_t* const* tokens, Workspace& workspace,
                Streams& streams) {
  StreamEnds room(streams, workspace);
  const uint16_t* const* rows[kernel::kRansMaxStreams];
  for (uint32_t v = 0; v < streams.count; ++v) rows[v] = tokens + size_t{v} * streams.shape.tokens;
  if (kernel::Rans().encode_rows(streams.shape, layout, streams.count, rows, room.ends, room.sizes) != 0) {
    return false;
  }
  room.Take(streams);
  return true;
}

// Levels at fixed width where that is not longer: few tokens of few lanes. Rewrites `streams` in place.
bool TryRaw(Streams& streams, Workspace& workspace) {
  if (streams.count != 1) return false;
  const size_t raw_bytes = kernel::RansRawBytes(streams.shape);
  if (raw_bytes > streams.bytes[0].size()) return false;
  const size_t levels_bytes = streams.shape.steps() * kernel::kRansLanes * sizeof(int16_t);
  std::byte* memory = workspace.Scratch(levels_bytes + raw_bytes, Workspace::Use::kSymbols).data();
  auto* const levels = reinterpret_cast<int16_t*>(memory);
  KVPLANE_CHECK(kernel::Rans().decode_levels(streams.shape, 1, streams.bytes, &levels) == 0);
  kernel::EncodeRansRaw(streams.shape, levels, memory + levels_bytes);
  streams.bytes[0] = {memory + levels_bytes, raw_bytes};
  return true;
}

// The way back: what decode_rows() takes.
bool FromRaw(Streams& streams, Workspace& workspace) {
  const size_t levels_bytes = streams.shape.steps() * kernel::kRansLanes * sizeof(int16_t);
  const size_t stream_bytes = kernel::RansMaxStreamBytes(streams.shape);
  std::byte* memory = workspace.Scratch(levels_bytes + stream_bytes, Workspace::Use::kStreams).data();
  auto* const levels = reinterpret_cast<int16_t*>(memory);
  if (!kernel::DecodeRansRaw(streams.shape, streams.bytes[0], levels)) return false;
  std::byte* const end = memory + levels_bytes + stream_bytes;
  size_t size = 0;
  kernel::Rans().encode_levels(streams.shape, 1, &levels, &end, &size);
  streams.bytes[0] = {end - size, size};
  return true;
}

base::Status ReadStreams(PayloadReader& reader, Streams& streams) {
  size_t lengths[kernel::kRansMaxStreams];
  for (uint32_t v = 0; v + 1 < streams.count; ++v) lengths[v] = reader.Varint();
  for (uint32_t v = 0; v + 1 < streams.count; ++v) streams.bytes[v] = reader.Bytes(lengths[v]);
  if (reader.failed()) return base::Corrupt("ecsq: a stream ends beyond the payload");
  streams.bytes[streams.count - 1] = reader.rest();
  return base::Status::Ok();
}

}  // namespace

EcsqCoder::EcsqCoder(Chain chain, tensor::Side side, std::shared_ptr<const ModelProfile> profile)
    : chain_(chain), plans_(chain, side, std::move(profile)) {}

size_t EcsqCoder::LeastBytes(const TileShape&) const { return 1; }

size_t EcsqCoder::Encode(const TileContext& context, const tensor::ConstTileView& in, Workspace& workspace,
                         std::span<std::byte> out) const {
  const std::shared_ptr<const EcsqPlan> plan = plans_.Of(context, ShapeOf(in));
  if (plan == nullptr) return 0;
  const EcsqConfig& config = plans_.config();
  const TokenRows<const uint16_t> tokens(in);
  const uint16_t* const* const rows = tokens.rows.data();
  EcsqChoice choice;
  const int8_t* levels = nullptr;
  if (plan->byte_lanes != nullptr && !config.tile_scale &&
      ChooseBytes(*plan, config, in, rows, workspace, choice, levels) == EcsqByteChoice::kRaw) {
    return 0;
  }
  if (levels == nullptr && !ChooseEcsq(*plan, config, in, rows, workspace, choice)) return 0;
  const EcsqLaneTables tables = MakeLaneTables(*plan, choice.ladder, choice.head_scales, workspace);
  PayloadWriter writer(out);
  if (plan->lanes == 0) {
    if (!FindEscapes(*plan, tables, 0, in, rows, choice)) return 0;
    WriteEcsqHead(choice.head, *plan, choice.head_scales, {}, choice.escapes, writer);
    return writer.size();
  }

  Streams streams;
  streams.count = 1u << choice.head.streams_log;
  streams.shape = tables.Shape(*plan, in.tokens / streams.count);
  if (levels != nullptr && kernel::RansBytes() != nullptr) {
    EncodeLevels(levels, plan->elements, workspace, streams);
  } else {
    kernel::RansRows layout = tables.Rows(*plan, in.head_stride);
    if (levels == nullptr) layout.largest = choice.lane_largest.data();
    if (!EncodeRows(layout, rows, workspace, streams)) return 0;
  }
  if (levels == nullptr && !FindEscapes(*plan, tables, 0, in, rows, choice)) return 0;
  choice.head.raw = TryRaw(streams, workspace);

  WriteEcsqHead(choice.head, *plan, choice.head_scales, choice.ladder, choice.escapes, writer);
  for (uint32_t v = 0; v + 1 < streams.count; ++v) {
    writer.Varint(static_cast<uint32_t>(streams.bytes[v].size()));
  }
  for (uint32_t v = 0; v < streams.count; ++v) writer.Bytes(streams.bytes[v]);
  return writer.size() < out.size() ? writer.size() : 0;
}

base::Status EcsqCoder::Decode(const TileContext& context, std::span<const std::byte> in,
                               Workspace& workspace, const tensor::TileView& out) const {
  const std::shared_ptr<const EcsqPlan> plan = plans_.Of(context, ShapeOf(out));
  if (plan == nullptr) return base::FailedPrecondition("ecsq: the profile does not fit the tile");
  const uint32_t heads = plans_.config().tile_scale ? plan->rows.heads : 0;
  const size_t room = EcsqEscapeRoom(in.size(), out.values());
  const size_t bytes = room * sizeof(EcsqEscape) + heads + plan->groups();
  const std::span<std::byte> memory = workspace.Scratch(bytes, Workspace::Use::kQuantizer);
  std::span<EcsqEscape> escapes(reinterpret_cast<EcsqEscape*>(memory.data()), room);
  auto* const scales = reinterpret_cast<uint8_t*>(memory.data() + room * sizeof(EcsqEscape));
  const std::span<uint8_t> head_scales(scales, heads);
  const std::span<uint8_t> ladder(scales + heads, plan->groups());
  PayloadReader reader(in);
  const uint32_t mode = reader.Byte();
  KVPLANE_ASSIGN_OR_RETURN(const EcsqHead head,
                           ReadEcsqHead(*plan, out.tokens, 1, mode, reader, head_scales, ladder, escapes));
  const TokenRows<uint16_t> tokens(out);
  if (plan->lanes == 0) {
    if (!reader.rest().empty()) return base::Corrupt("ecsq: {} bytes too many", reader.rest().size());
    FillDropped(*plan, out, tokens.rows.data());
  } else {
    const bool as_bytes = DecodesBytes(*plan, ladder);
    const EcsqLaneTables tables =
        MakeLaneTables(*plan, ladder, as_bytes ? std::span<uint8_t>() : head_scales, workspace);
    Streams streams;
    streams.count = 1u << head.streams_log;
    streams.shape = tables.Shape(*plan, out.tokens / streams.count);
    KVPLANE_RETURN_IF_ERROR(ReadStreams(reader, streams));
    if (head.raw && !FromRaw(streams, workspace)) return base::Corrupt("ecsq: a raw stream is malformed");
    const bool streaming_stores = WritesAroundCaches(chain_, out);
    uint32_t corrupt = 0;
    if (as_bytes) {
      corrupt = DecodeByteStreams(*plan, streams.shape, {streams.bytes, streams.count}, head_scales,
                                  streaming_stores, out, tokens.rows.data(), workspace);
    } else {
      kernel::RansRows layout = tables.Rows(*plan, out.head_stride);
      layout.streaming_stores = streaming_stores;
      uint16_t* const* rows[kernel::kRansMaxStreams];
      for (uint32_t v = 0; v < streams.count; ++v) rows[v] = tokens.rows.data() + v * streams.shape.tokens;
      corrupt = kernel::Rans().decode_rows(streams.shape, layout, streams.count, streams.bytes, rows);
    }
    if (corrupt != 0) return base::Corrupt("ecsq: streams {:#x} do not end as they must", corrupt);
  }
  ApplyEscapes(*plan, escapes, tokens.rows.data(), out.head_stride);
  return base::Status::Ok();
}

}  // namespace kvplane::codec
