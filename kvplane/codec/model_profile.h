// ModelProfile: the fitted constants of one model's KV cache: means, deviations, steps, bases, head ranking.
// docs/formats/profile.md is the normative file format; `kvplane profile fit` makes profiles.
//
// Spaces. The statistics of keys depend on whether RoPE has been undone: K has two spaces, V has one.
// Bases. In a space a lane is a coefficient of a basis: a channel itself, or a component of a principal
// component analysis (PCA) per head or over all heads of a layer. The "attention" bases are PCA in the metric
// of what attention sees (E[q q^T] for keys, W_o^T W_o for values), so that a
// uniform step there is a uniform error of logits or outputs. Forward and inverse are separate matrices since
// those bases are not orthogonal.
// Logarithms are base 2 in 1/64 octaves: whatever is worked out of a profile is integer arithmetic, the same
// on every machine.
//
// Ownership: immutable, shared. Thread safety: const access from many threads.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// First 16 bytes of the SHA-256 of the profile's bytes.
struct ProfileId {
  std::array<std::byte, 16> bytes{};
  auto operator<=>(const ProfileId&) const = default;
  bool none() const { return *this == ProfileId{}; }  // stands for "no profile"
  std::string ToHex() const;
};

// Wire ids: never renumber.
enum class KvSpace : uint8_t { kKeyRotated = 0, kKeyUnrotated = 1, kValue = 2 };
constexpr size_t kKvSpaces = 3;
enum class Basis : uint8_t { kChannel = 0, kHead = 1, kLayer = 2, kHeadAttention = 3, kLayerAttention = 4 };
constexpr size_t kBases = 5;

// Octaves are 1/64 steps of log2.
constexpr int32_t kOctave = 64;

// Bounds of a profile. Logarithms stay within 2^-64..2^64, so that any legal snr and quality still gives a
// normal binary32 step; a lane that never varies has the least deviation. Means and matrices are finite and
// below 2^64 in magnitude: one product of the two stays a binary32.
constexpr int16_t kMinLaneLog = -64 * kOctave;
constexpr int16_t kMaxLaneLog = 64 * kOctave;
constexpr float kMaxProfileMagnitude = 0x1p64f;
constexpr uint32_t kMaxProfileLayers = 1024;
// A basis over a layer keeps at most this many components: what `pca(rank)` can ask for.
constexpr uint32_t kMaxProfileRank = 1024;
constexpr size_t kMaxProfileNoteBytes = 1024;
// A full basis over a layer of 8 heads x 128 takes 4.2 MB, so large models are fitted with fewer bases or
// ranks.
constexpr size_t kMaxProfileBytes = size_t{1} << 30;

// One coefficient, in log2 of 1/64 octaves. Standard deviation, and the quantiser step that gives 0 dB:
// `uniform` makes the plain signal-to-noise ratio of the layer side 0 dB (step^2 / 12 = mean variance),
// `weighted` makes one slope for all layers and sides of the model, measured on its outputs. A strategy's snr
// and an object's quality shift them.
struct LaneScale {
  int16_t deviation = 0;
  int16_t uniform_step = 0;
  int16_t weighted_step = 0;
  bool operator==(const LaneScale&) const = default;
};

// What one basis of one space of one layer holds.
// kChannel: rank = head_dim; [kv_heads * head_dim] lanes in channel order, no matrices.
// kHead*:   rank <= head_dim; [kv_heads, rank] lanes; forward [kv_heads, head_dim, rank],
//           inverse [kv_heads, rank, head_dim]
// kLayer*:  rank <= min(kv_heads * head_dim, kMaxProfileRank); [rank] lanes;
//           forward [kv_heads * head_dim, rank], inverse [rank, kv_heads * head_dim]
// y = forward^T (x - mean), x = mean + inverse^T y; matrices bf16, row-major; the components of a PCA by
// falling deviation, so that the first r are the best r.
struct BasisData {
  uint32_t rank = 0;
  std::vector<LaneScale> lanes;
  std::vector<uint16_t> forward;
  std::vector<uint16_t> inverse;
  bool operator==(const BasisData&) const = default;
};

struct SpaceData {
  std::vector<uint16_t> mean;                          // [kv_heads * head_dim] bf16
  std::array<std::optional<BasisData>, kBases> bases;  // kChannel is always there
  bool operator==(const SpaceData&) const = default;
};

// RoPE as the model applies it (half-split pairing): angle = position * inverse_frequency, in binary32; cos
// and sin are multiplied by `magnitude`.
struct RopeData {
  float magnitude = 1.0f;                  // in [2^-8, 2^8]
  std::vector<float> inverse_frequencies;  // [rotary_dim / 2] in [0, 256]; 2 <= rotary_dim <= head_dim
  bool operator==(const RopeData&) const = default;
};

struct ModelProfileData {
  tensor::KvGeometry geometry;                                          // bf16
  std::array<std::byte, 32> model_fingerprint{};                        // SHA-256; zero when unknown
  std::optional<RopeData> rope;                                         // none: the model does not rotate
  std::vector<std::array<std::optional<SpaceData>, kKvSpaces>> layers;  // [layers]
  // [layers * kv_heads], layer-major: place of each head by importance, 0 = least, a permutation; empty: not
  // ranked.
  std::vector<uint16_t> head_rank;
  // What it was fitted on, for people: at most kMaxProfileNoteBytes of printable ASCII.
  std::string note;
  bool operator==(const ModelProfileData&) const = default;
};

class ModelProfile {
 public:
  // kInvalidArgument: sizes that contradict each other, values that are not finite or beyond their bounds.
  static base::Result<std::shared_ptr<const ModelProfile>> Create(ModelProfileData data);
  // Reads what bytes() gave, and nothing else: one profile, one form. Memory is bounded by the bytes given.
  // kCorrupt; kUnimplemented: a version of the future; kResourceExhausted: more than kMaxProfileBytes.
  static base::Result<std::shared_ptr<const ModelProfile>> Parse(std::span<const std::byte> bytes);

  const ProfileId& id() const { return id_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  const ModelProfileData& data() const { return data_; }

  // Null when the profile does not hold it. Requires: layer < geometry.layers.
  const SpaceData* space(uint32_t layer, KvSpace space) const;
  const BasisData* basis(uint32_t layer, KvSpace space, Basis basis) const;

 private:
  ModelProfile(ModelProfileData data, std::vector<std::byte> bytes, ProfileId id)
      : data_(std::move(data)), bytes_(std::move(bytes)), id_(id) {}

  ModelProfileData data_;
  std::vector<std::byte> bytes_;
  ProfileId id_;
};

// The profiles a process knows, by id. A value: shares the profiles. Thread safety: const access from many
// threads.
class ProfileSet {
 public:
  void Add(std::shared_ptr<const ModelProfile> profile);
  std::shared_ptr<const ModelProfile> Find(const ProfileId& id) const;  // null when unknown
  std::span<const std::shared_ptr<const ModelProfile>> all() const { return profiles_; }

 private:
  std::vector<std::shared_ptr<const ModelProfile>> profiles_;
};

}  // namespace kvplane::codec
