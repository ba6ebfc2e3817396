// The table of stages: one row per stage, nothing registers itself.
//
// Adding a stage: a folder with its code and spec.md, a row in stage_registry.cc, a line in CMakeLists.txt
// and in the changelog. A wire id and a published (name, version) pair are for ever: their meaning never
// changes, a new meaning takes a new version.
//
// A chain runs through the slots in their order. Its last stage is in the slot `code`; that stage drives the
// tile: it knows which quantisers it can be fused with, so that no symbols are staged in memory between them.
//
// Thread safety: constant data, pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kvplane/base/status.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// In chain order; at most one stage each.
enum class Slot : uint8_t { kSelect, kGeometry, kTransform, kPredict, kQuantize, kCode };
std::string_view Name(Slot slot);

// One parameter of a stage: one of `choices` (held as its index), one of `allowed`, or a multiple of
// `multiple_of` in [min, max].
struct ParamSpec {
  std::string_view name;
  std::string_view meaning;
  std::span<const std::string_view> choices;
  std::span<const uint32_t> allowed;
  uint32_t min = 0;
  uint32_t max = 0;
  uint32_t multiple_of = 1;
  uint32_t default_of_side[2] = {0, 0};  // indexed by tensor::Side
};

using Chain = std::span<const StageCall>;

// What a stage does. Stages that do not drive a tile have only `validate`.
struct StageFunctions {
  // Whether the stage may stand at chain[at] (slot order is already checked). The message names the rule.
  base::Status (*validate)(Chain chain, size_t at);

  // The fewest payload bytes a coded tile can have (method byte excluded), a function of chain and shape
  // alone. At least 1/16 of the raw bytes: what an object claims to hold is bounded by its size.
  size_t (*least_bytes)(Chain chain, const TileShape& shape);
  // Writes the payload to `out`, which has the tile's raw_bytes(), and returns its length; 0: these values
  // cannot be held faithfully or take no less than raw, code them raw. Called where least_bytes() < raw.
  size_t (*encode)(Chain chain, const tensor::ConstTileView& in, Workspace& workspace,
                   std::span<std::byte> out);
  // Decodes exactly `in`, all or nothing: everything is checked before the first write to `out`.
  base::Status (*decode)(Chain chain, std::span<const std::byte> in, Workspace& workspace,
                         const tensor::TileView& out);
};

struct StageDescriptor {
  uint8_t id = 0;  // wire id: slot in the upper half, counted from 1
  std::string_view name;
  Slot slot = Slot::kCode;
  uint8_t min_version = 1;  // format versions this build reads and writes
  uint8_t max_version = 1;
  bool lossy = false;
  std::span<const ParamSpec> params;
  const StageFunctions* functions = nullptr;
};

constexpr uint8_t kStageAffine = 0x51;
constexpr uint8_t kStageInt8 = 0x52;
constexpr uint8_t kStageFp8 = 0x53;
constexpr uint8_t kStageStore = 0x61;
constexpr uint8_t kStagePack = 0x62;
constexpr uint8_t kStageExponent = 0x63;
constexpr uint8_t kStageZstd = 0x64;
constexpr uint8_t kStageLz4 = 0x65;

std::span<const StageDescriptor> Stages();
const StageDescriptor* FindStage(uint8_t id);             // null when unknown
const StageDescriptor* FindStage(std::string_view name);  // null when unknown
std::string_view NearestStageName(std::string_view name);

// The row of a call whose id came from a parsed strategy.
const StageDescriptor& StageOf(const StageCall& call);

// Slot order, one stage per slot, a code stage at the end, then every stage's own rules. The message names
// the rule that is broken.
base::Status CheckLegal(Chain chain);

// Rule L1 of a code stage that takes the bf16 values themselves: nothing stands before it.
base::Status CheckTakesValues(Chain chain, size_t at);

}  // namespace kvplane::codec
