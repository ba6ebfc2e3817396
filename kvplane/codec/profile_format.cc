#include "kvplane/codec/profile_format.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "kvplane/base/endian.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/kernel/checksum/checksum.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::codec {
namespace {

constexpr uint32_t kMagic = 0x4650564b;  // "KVPF"
constexpr uint8_t kMajor = 1;
constexpr uint8_t kMinor = 0;
// Every flag is critical: each adds a field.
constexpr uint16_t kFlagRope = 1 << 0;
constexpr uint16_t kFlagHeadRank = 1 << 1;
constexpr uint16_t kKnownFlags = kFlagRope | kFlagHeadRank;

constexpr size_t kAtFlags = 6;
constexpr size_t kAtFileBytes = 16;
constexpr size_t kHeaderBytes = 32;
constexpr size_t kCrcBytes = 4;
constexpr size_t kFingerprintBytes = 32;

constexpr float kMaxRopeFrequency = 256.0f;
constexpr float kMinRopeMagnitude = 0x1p-8f;
constexpr float kMaxRopeMagnitude = 0x1p8f;

constexpr std::string_view kSpaceNames[kKvSpaces] = {"rotated keys", "unrotated keys", "values"};
constexpr std::string_view kBasisNames[kBases] = {"channel", "head", "layer", "head attention",
                                                  "layer attention"};

// Lanes and patterns are copied whole: their layout in memory is that of the file.
static_assert(sizeof(LaneScale) == 6 && std::is_trivially_copyable_v<LaneScale>);

bool IsHead(Basis basis) { return basis == Basis::kHead || basis == Basis::kHeadAttention; }

size_t LaneCount(const tensor::KvGeometry& geometry, Basis basis, uint32_t rank) {
  if (basis == Basis::kChannel || IsHead(basis)) return size_t{geometry.kv_heads} * rank;
  return rank;
}

// Of one matrix; forward and inverse have as many.
size_t MatrixValues(const tensor::KvGeometry& geometry, Basis basis, uint32_t rank) {
  if (basis == Basis::kChannel) return 0;
  return geometry.values_per_token_side() * rank;
}

size_t BasisBytes(const tensor::KvGeometry& geometry, Basis basis, uint32_t rank) {
  return sizeof(uint16_t) + LaneCount(geometry, basis, rank) * sizeof(LaneScale) +
         2 * MatrixValues(geometry, basis, rank) * sizeof(uint16_t);
}

base::Status CheckGeometry(const tensor::KvGeometry& geometry) {
  if (geometry.layers < 1 || geometry.layers > kMaxProfileLayers || geometry.kv_heads < 1 ||
      geometry.kv_heads > kMaxTileHeads || geometry.head_dim < 1 || geometry.head_dim > kMaxTileHeadDim) {
    return base::InvalidArgument("{} layers of {} KV heads x {} are outside 1..{}, 1..{}, 1..{}",
                                 geometry.layers, geometry.kv_heads, geometry.head_dim, kMaxProfileLayers,
                                 kMaxTileHeads, kMaxTileHeadDim);
  }
  if (geometry.dtype != tensor::DType::kBf16) {
    return base::InvalidArgument("profiles are of bf16 caches, not of {}", tensor::Name(geometry.dtype));
  }
  return base::Status::Ok();
}

base::Status CheckRope(const RopeData& rope, uint32_t head_dim) {
  if (!(rope.magnitude >= kMinRopeMagnitude && rope.magnitude <= kMaxRopeMagnitude)) {
    return base::InvalidArgument("rope magnitude {} is outside {}..{}", rope.magnitude, kMinRopeMagnitude,
                                 kMaxRopeMagnitude);
  }
  if (rope.inverse_frequencies.empty() || rope.inverse_frequencies.size() > head_dim / 2) {
    return base::InvalidArgument("{} rope frequencies for head_dim {}, 1..{} fit",
                                 rope.inverse_frequencies.size(), head_dim, head_dim / 2);
  }
  for (const float frequency : rope.inverse_frequencies) {
    if (!(frequency >= 0.0f && frequency <= kMaxRopeFrequency) || std::signbit(frequency)) {
      return base::InvalidArgument("rope frequency {} is outside 0..{}", frequency, kMaxRopeFrequency);
    }
  }
  return base::Status::Ok();
}

base::Status CheckHeadRank(const std::vector<uint16_t>& rank, const tensor::KvGeometry& geometry) {
  if (rank.empty()) return base::Status::Ok();
  if (rank.size() != size_t{geometry.layers} * geometry.kv_heads) {
    return base::InvalidArgument("{} head ranks for {} layers of {} KV heads", rank.size(), geometry.layers,
                                 geometry.kv_heads);
  }
  constexpr size_t kMostHeads = 65'536;  // ranks are u16
  if (rank.size() > kMostHeads) {
    return base::InvalidArgument("{} head ranks: at most {}", rank.size(), kMostHeads);
  }
  std::vector<bool> seen(rank.size());
  for (const uint16_t place : rank) {
    if (place >= rank.size() || seen[place]) {
      return base::InvalidArgument("the head ranks are no permutation: {} is out of range or twice", place);
    }
    seen[place] = true;
  }
  return base::Status::Ok();
}

base::Status CheckNote(std::string_view note) {
  if (note.size() > kMaxProfileNoteBytes) {
    return base::InvalidArgument("the note has {} bytes, at most {}", note.size(), kMaxProfileNoteBytes);
  }
  // People read it on a terminal, programs in JSON.
  const auto is_printable = [](char c) { return c >= 0x20 && c <= 0x7e; };
  if (!std::all_of(note.begin(), note.end(), is_printable)) {
    return base::InvalidArgument("the note holds a character that is not printable ASCII");
  }
  return base::Status::Ok();
}

base::Status CheckMagnitudes(std::span<const uint16_t> values, std::string_view what) {
  for (const uint16_t pattern : values) {
    const float value = tensor::Bf16ToFloat(pattern);
    if (!(std::abs(value) < kMaxProfileMagnitude)) {
      return base::InvalidArgument("{} hold {}, not finite or beyond 2^64", what, value);
    }
  }
  return base::Status::Ok();
}

base::Status CheckLanes(std::span<const LaneScale> lanes) {
  for (const LaneScale& lane : lanes) {
    for (const int16_t log : {lane.deviation, lane.uniform_step, lane.weighted_step}) {
      if (log < kMinLaneLog || log > kMaxLaneLog) {
        return base::InvalidArgument("a lane holds {} / 64 octaves, outside 2^-64..2^64", log);
      }
    }
  }
  return base::Status::Ok();
}

uint64_t MaxRank(const tensor::KvGeometry& geometry, Basis basis) {
  if (basis == Basis::kChannel || IsHead(basis)) return geometry.head_dim;
  return std::min<uint64_t>(geometry.values_per_token_side(), kMaxProfileRank);
}

base::Status CheckBasis(const BasisData& data, const tensor::KvGeometry& geometry, Basis basis) {
  const uint64_t max_rank = MaxRank(geometry, basis);
  const uint64_t min_rank = basis == Basis::kChannel ? max_rank : 1;
  if (data.rank < min_rank || data.rank > max_rank) {
    return base::InvalidArgument("rank {} is outside {}..{}", data.rank, min_rank, max_rank);
  }
  const size_t lanes = LaneCount(geometry, basis, data.rank);
  const size_t values = MatrixValues(geometry, basis, data.rank);
  if (data.lanes.size() != lanes || data.forward.size() != values || data.inverse.size() != values) {
    return base::InvalidArgument("{} lanes, matrices of {} and {} values, expected {}, {} and {}",
                                 data.lanes.size(), data.forward.size(), data.inverse.size(), lanes, values,
                                 values);
  }
  KVPLANE_RETURN_IF_ERROR(CheckLanes(data.lanes));
  KVPLANE_RETURN_IF_ERROR(CheckMagnitudes(data.forward, "forward matrices"));
  return CheckMagnitudes(data.inverse, "inverse matrices");
}

base::Status CheckSpace(const SpaceData& space, const tensor::KvGeometry& geometry) {
  if (space.mean.size() != geometry.values_per_token_side()) {
    return base::InvalidArgument("{} means, expected {}", space.mean.size(),
                                 geometry.values_per_token_side());
  }
  KVPLANE_RETURN_IF_ERROR(CheckMagnitudes(space.mean, "means"));
  if (!space.bases[static_cast<size_t>(Basis::kChannel)]) {
    return base::InvalidArgument("there are no channel lanes");
  }
  for (size_t i = 0; i < kBases; ++i) {
    if (!space.bases[i]) continue;
    const base::Status status = CheckBasis(*space.bases[i], geometry, static_cast<Basis>(i));
    KVPLANE_RETURN_IF_ERROR(status.Annotate(kBasisNames[i]));
  }
  return base::Status::Ok();
}

size_t SpaceBytes(const SpaceData& space, const tensor::KvGeometry& geometry) {
  size_t bytes = 1 + space.mean.size() * sizeof(uint16_t);
  for (size_t i = 0; i < kBases; ++i) {
    if (space.bases[i]) bytes += BasisBytes(geometry, static_cast<Basis>(i), space.bases[i]->rank);
  }
  return bytes;
}

template <typename Optionals>
uint8_t MaskOf(const Optionals& optionals) {
  uint8_t mask = 0;
  for (size_t i = 0; i < optionals.size(); ++i) {
    if (optionals[i]) mask = static_cast<uint8_t>(mask | (1u << i));
  }
  return mask;
}

template <typename T>
void PutVector(base::ByteWriter& out, const std::vector<T>& values) {
  out.PutBytes(std::as_bytes(std::span(values)));
}

// Checks that the bytes are there before it takes memory for them.
template <typename T>
std::vector<T> GetVector(base::ByteReader& in, size_t count, std::string_view field) {
  if (count > in.remaining() / sizeof(T)) {
    in.GetBytes(in.remaining() + 1, field);  // records the error
    return {};
  }
  const auto bytes = in.GetBytes(count * sizeof(T), field);
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// What must hold before a field is believed: magic, version, length, checksum.
base::Status CheckEnvelope(std::span<const std::byte> bytes) {
  base::ByteReader in(bytes);
  if (in.Get<uint32_t>("magic") != kMagic) return base::Corrupt("this is no profile: wrong magic");
  const auto major = in.Get<uint8_t>("major");
  KVPLANE_RETURN_IF_ERROR(in.status());
  if (major != kMajor) {
    return base::Unimplemented("profile format {} is not supported, this build reads {}", major, kMajor);
  }
  if (bytes.size() < kHeaderBytes + kCrcBytes) {
    return base::Corrupt("{} bytes, a header has {}", bytes.size(), kHeaderBytes);
  }
  const auto claimed = base::LoadLe<uint64_t>(bytes.data() + kAtFileBytes);
  if (claimed != bytes.size()) {
    return base::Corrupt("the profile claims {} bytes, {} are here", claimed, bytes.size());
  }
  const auto covered = bytes.first(bytes.size() - kCrcBytes);
  if (kernel::Crc32c(covered) != base::LoadLe<uint32_t>(bytes.data() + covered.size())) {
    return base::Corrupt("CRC32C mismatch");
  }
  return base::Status::Ok();
}

base::Status ReadHeader(base::ByteReader& in, ModelProfileData& data, uint16_t& flags) {
  in.GetBytes(kAtFlags, "magic and version");
  flags = in.Get<uint16_t>("flags");
  data.geometry.layers = in.Get<uint16_t>("layers");
  data.geometry.kv_heads = in.Get<uint16_t>("kv heads");
  data.geometry.head_dim = in.Get<uint16_t>("head_dim");
  const auto dtype = in.Get<uint8_t>("dtype");
  uint64_t reserved = in.Get<uint8_t>("reserved");
  in.GetBytes(sizeof(uint64_t), "file bytes");
  reserved |= in.Get<uint64_t>("reserved");
  KVPLANE_RETURN_IF_ERROR(in.status());
  if (flags & ~kKnownFlags) return base::Unimplemented("unknown profile flags {:#06x}", flags);
  if (dtype != static_cast<uint8_t>(tensor::DType::kBf16) || reserved != 0) {
    return base::Corrupt("dtype {} or reserved bytes are not as they must be", dtype);
  }
  return CheckGeometry(data.geometry);
}

base::Result<BasisData> ReadBasis(base::ByteReader& in, const tensor::KvGeometry& geometry, Basis basis) {
  BasisData data;
  data.rank = in.Get<uint16_t>("rank");
  if (data.rank > MaxRank(geometry, basis)) {
    return base::Corrupt("rank {} is above {}", data.rank, MaxRank(geometry, basis));
  }
  data.lanes = GetVector<LaneScale>(in, LaneCount(geometry, basis, data.rank), "lanes");
  const size_t values = MatrixValues(geometry, basis, data.rank);
  data.forward = GetVector<uint16_t>(in, values, "forward matrix");
  data.inverse = GetVector<uint16_t>(in, values, "inverse matrix");
  KVPLANE_RETURN_IF_ERROR(in.status());
  return data;
}

base::Result<SpaceData> ReadSpace(base::ByteReader& in, const tensor::KvGeometry& geometry) {
  SpaceData space;
  const auto mask = in.Get<uint8_t>("basis mask");
  if (mask >> kBases) return base::Corrupt("unknown bases {:#04x}", mask);
  space.mean = GetVector<uint16_t>(in, geometry.values_per_token_side(), "means");
  for (size_t i = 0; i < kBases; ++i) {
    if (!(mask >> i & 1)) continue;
    auto data = ReadBasis(in, geometry, static_cast<Basis>(i));
    if (!data.ok()) return data.status().Annotate(kBasisNames[i]);
    space.bases[i] = *std::move(data);
  }
  KVPLANE_RETURN_IF_ERROR(in.status());
  return space;
}

base::Status ReadLayers(base::ByteReader& in, ModelProfileData& data) {
  // A layer takes at least its mask.
  if (data.geometry.layers > in.remaining()) {
    return base::Corrupt("{} layers in {} bytes", data.geometry.layers, in.remaining());
  }
  data.layers.resize(data.geometry.layers);
  for (size_t layer = 0; layer < data.layers.size(); ++layer) {
    const auto mask = in.Get<uint8_t>("space mask");
    if (mask >> kKvSpaces) return base::Corrupt("layer {}: unknown spaces {:#04x}", layer, mask);
    for (size_t i = 0; i < kKvSpaces; ++i) {
      if (!(mask >> i & 1)) continue;
      auto space = ReadSpace(in, data.geometry);
      if (!space.ok()) return space.status().Annotate(kSpaceNames[i]);
      data.layers[layer][i] = *std::move(space);
    }
  }
  return in.status();
}

}  // namespace

base::Status ValidateProfile(const ModelProfileData& data) {
  KVPLANE_RETURN_IF_ERROR(CheckGeometry(data.geometry));
  if (data.rope) KVPLANE_RETURN_IF_ERROR(CheckRope(*data.rope, data.geometry.head_dim));
  KVPLANE_RETURN_IF_ERROR(CheckHeadRank(data.head_rank, data.geometry));
  KVPLANE_RETURN_IF_ERROR(CheckNote(data.note));
  if (data.layers.size() != data.geometry.layers) {
    return base::InvalidArgument("{} layers of data for {} layers", data.layers.size(), data.geometry.layers);
  }
  for (size_t layer = 0; layer < data.layers.size(); ++layer) {
    for (size_t i = 0; i < kKvSpaces; ++i) {
      if (!data.layers[layer][i]) continue;
      const base::Status status = CheckSpace(*data.layers[layer][i], data.geometry);
      KVPLANE_RETURN_IF_ERROR(status.Annotate(fmt::format("layer {}, {}", layer, kSpaceNames[i])));
    }
  }
  if (ProfileFileBytes(data) > kMaxProfileBytes) {
    return base::InvalidArgument("the profile takes {} bytes, at most {}; fit fewer bases or a lower rank",
                                 ProfileFileBytes(data), kMaxProfileBytes);
  }
  return base::Status::Ok();
}

size_t ProfileFileBytes(const ModelProfileData& data) {
  size_t bytes = kHeaderBytes + kFingerprintBytes + sizeof(uint16_t) + data.note.size() + kCrcBytes;
  if (data.rope) {
    bytes += sizeof(float) + sizeof(uint16_t) + data.rope->inverse_frequencies.size() * sizeof(float);
  }
  bytes += data.head_rank.size() * sizeof(uint16_t);
  for (const auto& layer : data.layers) {
    bytes += 1;
    for (const auto& space : layer) {
      if (space) bytes += SpaceBytes(*space, data.geometry);
    }
  }
  return bytes;
}

std::vector<std::byte> SerializeProfile(const ModelProfileData& data) {
  std::vector<std::byte> bytes;
  const size_t file_bytes = ProfileFileBytes(data);
  bytes.reserve(file_bytes);
  base::ByteWriter out(bytes);
  out.Put(kMagic);
  out.Put(kMajor);
  out.Put(kMinor);
  out.Put(static_cast<uint16_t>((data.rope ? kFlagRope : 0) | (data.head_rank.empty() ? 0 : kFlagHeadRank)));
  out.Put(static_cast<uint16_t>(data.geometry.layers));
  out.Put(static_cast<uint16_t>(data.geometry.kv_heads));
  out.Put(static_cast<uint16_t>(data.geometry.head_dim));
  out.Put(static_cast<uint8_t>(data.geometry.dtype));
  out.Put(uint8_t{0});
  out.Put(uint64_t{file_bytes});
  out.Put(uint64_t{0});
  out.PutBytes(data.model_fingerprint);
  out.PutString(data.note);
  if (data.rope) {
    out.Put(data.rope->magnitude);
    out.Put(static_cast<uint16_t>(data.rope->inverse_frequencies.size()));
    PutVector(out, data.rope->inverse_frequencies);
  }
  PutVector(out, data.head_rank);
  for (const auto& layer : data.layers) {
    out.Put(MaskOf(layer));
    for (const auto& space : layer) {
      if (!space) continue;
      out.Put(MaskOf(space->bases));
      PutVector(out, space->mean);
      for (const auto& basis : space->bases) {
        if (!basis) continue;
        out.Put(static_cast<uint16_t>(basis->rank));
        PutVector(out, basis->lanes);
        PutVector(out, basis->forward);
        PutVector(out, basis->inverse);
      }
    }
  }
  out.Put(kernel::Crc32c(bytes));
  return bytes;
}

base::Result<ModelProfileData> ReadProfile(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxProfileBytes) {
    return base::ResourceExhausted("a profile of {} bytes, at most {} are read", bytes.size(),
                                   kMaxProfileBytes);
  }
  ModelProfileData data;
  uint16_t flags = 0;
  KVPLANE_RETURN_IF_ERROR(CheckEnvelope(bytes));
  base::ByteReader in(bytes.first(bytes.size() - kCrcBytes));
  KVPLANE_RETURN_IF_ERROR(ReadHeader(in, data, flags));
  const auto fingerprint = in.GetBytes(kFingerprintBytes, "model fingerprint");
  std::copy(fingerprint.begin(), fingerprint.end(), data.model_fingerprint.begin());
  data.note = in.GetString("note");
  if (flags & kFlagRope) {
    RopeData rope;
    rope.magnitude = in.Get<float>("rope magnitude");
    const auto count = in.Get<uint16_t>("rope frequencies");
    rope.inverse_frequencies = GetVector<float>(in, count, "rope frequencies");
    data.rope = std::move(rope);
  }
  if (flags & kFlagHeadRank) {
    data.head_rank =
        GetVector<uint16_t>(in, size_t{data.geometry.layers} * data.geometry.kv_heads, "head ranks");
  }
  KVPLANE_RETURN_IF_ERROR(in.status());
  KVPLANE_RETURN_IF_ERROR(ReadLayers(in, data));
  if (in.remaining() != 0) return base::Corrupt("{} bytes after the last layer", in.remaining());
  return data;
}

}  // namespace kvplane::codec
