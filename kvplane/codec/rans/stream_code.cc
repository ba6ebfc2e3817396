#include "kvplane/codec/rans/stream_code.h"

#include <algorithm>
#include <array>

#include "kvplane/base/check.h"
#include "kvplane/base/endian.h"
#include "kvplane/codec/pack/packed_rows.h"
#include "kvplane/codec/rans/table_choice.h"
#include "kvplane/kernel/pack/pack.h"
#include "kvplane/kernel/rans/rans_symbols.h"

namespace kvplane::codec {
namespace {

constexpr uint32_t kMaxStreams = kernel::kRansMaxStreams;
// What the states of a stream take beyond what they are worth, and the part of the payload they may take.
constexpr uint64_t kNetStreamBytes = 48;
constexpr uint64_t kStreamShare = 100;
// Counts and raw flags, the map of the heads, tables, lengths.
constexpr size_t kFixedBytes = 2;
constexpr size_t kMaxFrameBytes = kFixedBytes + kMaxTileHeads / 2 +
                                  kMaxPlaneTables * kernel::kRansMaxFrequencyBytes +
                                  (kMaxStreams - 1) * sizeof(uint32_t);

// Streams take the tokens of the tile in order, as evenly as goes.
struct Partition {
  Partition(uint32_t all_tokens, uint32_t stream_count) : streams(stream_count) {
    for (uint32_t v = 0, at = 0; v < streams; at += tokens[v++]) {
      first[v] = at;
      tokens[v] = all_tokens / streams + (v < all_tokens % streams ? 1 : 0);
    }
  }
  uint32_t streams;
  uint32_t first[kMaxStreams] = {};
  uint32_t tokens[kMaxStreams] = {};
};

uint32_t ChooseStreams(uint32_t tokens, uint64_t bits) {
  for (const uint32_t streams : {kMaxStreams, kMaxStreams / 2, kMaxStreams / 4}) {
    if (streams <= tokens && streams * kNetStreamBytes * kStreamShare <= bits / 8) return streams;
  }
  return 1;
}

size_t RawBytes(const SymbolPlane& plane, uint32_t tokens) {
  const TileShape part = {tokens, 1, plane.shape.head_dim};
  size_t bytes = 0;
  for (const uint32_t alphabet : plane.alphabets) bytes += PackedHeadBytes(part, PackedWidth(alphabet));
  return bytes;
}
void WriteRaw(const SymbolPlane& plane, const uint8_t* symbols, uint32_t tokens, std::byte* out) {
  const TileShape part = {tokens, 1, plane.shape.head_dim};
  for (const uint32_t alphabet : plane.alphabets) {
    PackHead(symbols, part, PackedWidth(alphabet), out);
    out += PackedHeadBytes(part, PackedWidth(alphabet));
    symbols += plane.head_values();
  }
}
// False when a symbol is beyond its alphabet.
bool ReadRaw(const SymbolPlane& plane, const std::byte* in, uint32_t tokens, uint8_t* symbols) {
  const TileShape part = {tokens, 1, plane.shape.head_dim};
  for (const uint32_t alphabet : plane.alphabets) {
    if (UnpackHead(in, part, PackedWidth(alphabet), symbols) >= alphabet) return false;
    in += PackedHeadBytes(part, PackedWidth(alphabet));
    symbols += plane.head_values();
  }
  return true;
}

// The tables of a plane and which head has which.
struct Tables {
  uint32_t count = 0;
  std::array<uint8_t, kMaxTileHeads> of_head{};  // [heads]
  std::array<kernel::RansTable, kMaxPlaneTables> tables;
  std::array<const kernel::RansTable*, kMaxTileHeads> head_tables;  // [heads]

  kernel::RansSymbolShape Shape(const SymbolPlane& plane) {
    for (uint32_t h = 0; h < plane.shape.heads; ++h) head_tables[h] = &tables[of_head[h]];
    return {.heads = plane.shape.heads,
            .head_dim = plane.shape.head_dim,
            .head_stride = plane.head_values(),
            .token_stride = plane.shape.head_dim,
            .tables = head_tables.data()};
  }
};

// What stands before the streams, as it is written.
class Frame {
 public:
  // `frequencies` is empty when all streams are raw.
  void Write(const SymbolPlane& plane, const Tables& tables,
             std::span<const kernel::RansFrequencies> frequencies, uint32_t raw,
             std::span<const std::span<const std::byte>> streams) {
    bytes_[0] = static_cast<std::byte>((streams.size() - 1) | frequencies.size() << 3);
    bytes_[1] = static_cast<std::byte>(raw);
    size_ = kFixedBytes;
    if (frequencies.size() > 1) {
      const uint32_t bits = PackedWidth(static_cast<uint32_t>(frequencies.size()));
      kernel::Packing().pack(tables.of_head.data(), plane.shape.heads, bits, &bytes_[size_]);
      size_ += kernel::PackedRowBytes(plane.shape.heads, bits);
    }
    for (const kernel::RansFrequencies& f : frequencies) {
      size_ += kernel::WriteRansFrequencies(f, &bytes_[size_]);
    }
    for (const auto& stream : streams.first(streams.size() - 1)) {
      base::StoreLe(&bytes_[size_], static_cast<uint32_t>(stream.size()));
      size_ += sizeof(uint32_t);
    }
  }
  std::span<const std::byte> bytes() const { return std::span(bytes_).first(size_); }

 private:
  std::array<std::byte, kMaxFrameBytes> bytes_;
  size_t size_ = 0;
};

// The map and the tables at the front of `in`, which is moved on.
base::Status ReadTables(const SymbolPlane& plane, std::span<const std::byte>& in, Tables& tables) {
  if (tables.count > 1) {
    const uint32_t bits = PackedWidth(tables.count);
    const size_t bytes = kernel::PackedRowBytes(plane.shape.heads, bits);
    if (in.size() < bytes ||
        kernel::Packing().unpack(in.data(), plane.shape.heads, bits, tables.of_head.data()) >= tables.count) {
      return base::Corrupt("rans: a map of {} heads to {} tables does not hold", plane.shape.heads,
                           tables.count);
    }
    in = in.subspan(bytes);
  }
  for (uint32_t k = 0; k < tables.count; ++k) {
    kernel::RansFrequencies frequencies;
    const size_t bytes = kernel::ReadRansFrequencies(in, &frequencies);
    if (bytes == 0 || !kernel::BuildRansTable(frequencies, &tables.tables[k])) {
      return base::Corrupt("rans: table {} is impossible", k);
    }
    in = in.subspan(bytes);
  }
  for (uint32_t h = 0; tables.count > 0 && h < plane.shape.heads; ++h) {
    if (tables.tables[tables.of_head[h]].alphabet > plane.alphabets[h]) {
      return base::Corrupt("rans: head {} has an alphabet of {}, its table one of {}", h, plane.alphabets[h],
                           tables.tables[tables.of_head[h]].alphabet);
    }
  }
  return base::Status::Ok();
}

// Cuts `in` into the streams; their lengths stand at its front, but for the last.
base::Status ReadStreams(const SymbolPlane& plane, std::span<const std::byte> in, const Partition& partition,
                         uint32_t raw, std::span<std::span<const std::byte>> streams) {
  const size_t lengths = (streams.size() - 1) * sizeof(uint32_t);
  if (in.size() < lengths) return base::Corrupt("rans: {} bytes for the lengths of streams", in.size());
  const std::byte* length = in.data();
  in = in.subspan(lengths);
  for (size_t v = 0; v < streams.size(); ++v, length += sizeof(uint32_t)) {
    const size_t bytes = v + 1 == streams.size() ? in.size() : base::LoadLe<uint32_t>(length);
    if (bytes > in.size()) return base::Corrupt("rans: a stream of {} bytes in {}", bytes, in.size());
    if ((raw >> v & 1u) != 0 && bytes != RawBytes(plane, partition.tokens[v])) {
      return base::Corrupt("rans: a raw stream of {} bytes", bytes);
    }
    streams[v] = in.first(bytes);
    in = in.subspan(bytes);
  }
  return base::Status::Ok();
}

using Streams = std::array<std::span<const std::byte>, kMaxStreams>;

// Codes all streams into `buffer`.
void EncodeCoded(const SymbolPlane& plane, Tables& tables, const Partition& partition, const uint8_t* symbols,
                 std::span<std::byte> buffer, Streams& streams) {
  const kernel::RansSymbolShape shape = tables.Shape(plane);
  const uint8_t* from[kMaxStreams];
  std::byte* ends[kMaxStreams];
  size_t sizes[kMaxStreams];
  std::byte* end = buffer.data();
  for (uint32_t v = 0; v < partition.streams; ++v) {
    from[v] = symbols + size_t{partition.first[v]} * plane.shape.head_dim;
    ends[v] = end += kernel::RansMaxSymbolBytes(shape, partition.tokens[v]);
  }
  kernel::RansSymbols().encode(shape, partition.streams, from, partition.tokens, ends, sizes);
  for (uint32_t v = 0; v < partition.streams; ++v) streams[v] = {ends[v] - sizes[v], sizes[v]};
}

// The streams that are not raw; returns whether all are whole.
bool DecodeCoded(const SymbolPlane& plane, Tables& tables, const Partition& partition, uint32_t raw,
                 const Streams& streams, uint8_t* symbols) {
  std::span<const std::byte> coded[kMaxStreams];
  uint32_t tokens[kMaxStreams];
  uint8_t* to[kMaxStreams];
  uint32_t count = 0;
  for (uint32_t v = 0; v < partition.streams; ++v) {
    if ((raw >> v & 1u) != 0) continue;
    coded[count] = streams[v];
    tokens[count] = partition.tokens[v];
    to[count++] = symbols + size_t{partition.first[v]} * plane.shape.head_dim;
  }
  return count == 0 || kernel::RansSymbols().decode(tables.Shape(plane), count, coded, tokens, to) == 0;
}

}  // namespace

size_t StreamCode::LeastBytes(const TileShape& shape) const {
  constexpr uint32_t kLeastWidth = 1;
  const size_t raw = shape.heads * PackedHeadBytes(shape, kLeastWidth);
  return kFixedBytes + std::min(raw, 1 + kernel::kRansStateBytes);
}

size_t StreamCode::Encode(const SymbolPlane& plane, const uint8_t* symbols, Workspace& workspace,
                          std::span<std::byte> out) const {
  const TileShape& shape = plane.shape;
  const size_t count_bytes = shape.heads * sizeof(SymbolCounts);
  const std::span<std::byte> scratch = workspace.Scratch(
      count_bytes + shape.values() + kMaxStreams * kernel::kRansStateBytes, Workspace::Use::kStreams);
  const std::span counts(reinterpret_cast<SymbolCounts*>(scratch.data()), shape.heads);
  for (uint32_t h = 0; h < shape.heads; ++h) {
    counts[h] = {};
    kernel::RansSymbols().count(symbols + h * plane.head_values(), plane.head_values(), plane.alphabets[h],
                                counts[h].data());
  }
  const TableChoice choice = ChooseTables(counts, plane.alphabets);
  Tables tables;
  std::array<kernel::RansFrequencies, kMaxPlaneTables> frequencies;
  tables.of_head = choice.table_of_head;
  for (uint32_t k = 0; k < choice.tables; ++k) {
    frequencies[k] = kernel::NormaliseRans(choice.counts[k]);
    KVPLANE_CHECK(kernel::BuildRansTable(frequencies[k], &tables.tables[k]));
  }
  const Partition partition(shape.tokens, ChooseStreams(shape.tokens, choice.bits));
  Streams streams;
  if (choice.tables > 0)
    EncodeCoded(plane, tables, partition, symbols, scratch.subspan(count_bytes), streams);

  // A stream is raw where that takes no more, and all are where the heads need too many tables.
  uint32_t raw = 0;
  size_t stream_bytes = 0;
  for (uint32_t v = 0; v < partition.streams; ++v) {
    const size_t raw_bytes = RawBytes(plane, partition.tokens[v]);
    if (choice.tables == 0 || streams[v].size() >= raw_bytes) {
      raw |= 1u << v;
      streams[v] = {scratch.data(), raw_bytes};  // only its length counts
    }
    stream_bytes += streams[v].size();
  }
  const bool all_raw = raw == (1u << partition.streams) - 1;
  Frame frame;
  frame.Write(plane, tables, std::span(frequencies).first(all_raw ? 0 : choice.tables), raw,
              std::span(streams).first(partition.streams));
  if (frame.bytes().size() + stream_bytes > out.size()) return 0;
  std::byte* at = std::copy(frame.bytes().begin(), frame.bytes().end(), out.data());
  for (uint32_t v = 0; v < partition.streams; at += streams[v++].size()) {
    if ((raw >> v & 1u) != 0) {
      WriteRaw(plane, symbols + size_t{partition.first[v]} * shape.head_dim, partition.tokens[v], at);
    } else {
      std::copy(streams[v].begin(), streams[v].end(), at);
    }
  }
  return static_cast<size_t>(at - out.data());
}

base::Status StreamCode::Decode(const SymbolPlane& plane, std::span<const std::byte> in, Workspace&,
                                uint8_t* symbols) const {
  if (in.size() < kFixedBytes) return base::Corrupt("rans: {} bytes", in.size());
  const auto counts = static_cast<uint32_t>(in[0]);
  const auto raw = static_cast<uint32_t>(in[1]);
  const uint32_t stream_count = (counts & 7u) + 1;
  Tables tables;
  tables.count = counts >> 3;
  const uint32_t all = (1u << stream_count) - 1;
  if (tables.count > kMaxPlaneTables || stream_count > plane.shape.tokens || raw > all ||
      (raw == all) != (tables.count == 0)) {
    return base::Corrupt("rans: {} streams of {} tokens, {} tables, raw flags {:#x}", stream_count,
                         plane.shape.tokens, tables.count, raw);
  }
  in = in.subspan(kFixedBytes);
  KVPLANE_RETURN_IF_ERROR(ReadTables(plane, in, tables));
  const Partition partition(plane.shape.tokens, stream_count);
  Streams streams;
  KVPLANE_RETURN_IF_ERROR(ReadStreams(plane, in, partition, raw, std::span(streams).first(stream_count)));
  if (!DecodeCoded(plane, tables, partition, raw, streams, symbols)) {
    return base::Corrupt("rans: a stream does not end as it must");
  }
  for (uint32_t v = 0; v < stream_count; ++v) {
    if ((raw >> v & 1u) == 0) continue;
    uint8_t* const to = symbols + size_t{partition.first[v]} * plane.shape.head_dim;
    if (!ReadRaw(plane, streams[v].data(), partition.tokens[v], to)) {
      return base::Corrupt("rans: a raw symbol beyond its alphabet");
    }
  }
  return base::Status::Ok();
}

}  // namespace kvplane::codec
