// The table of stages: one row per stage, nothing registers itself.
//
// Adding a stage: a folder with its code and spec.md, a row in stage_registry.cc, a line in CMakeLists.txt
// and in the changelog. A wire id and a published (name, version) pair are for ever: their meaning never
// changes, a new meaning takes a new version.
//
// A chain runs through the slots in their order; `select` and `geometry` take several stages, by rising id.
// Its last stage is in the slot `code`; that stage drives the tile: it knows which quantisers it can be fused
// with, so that no symbols are staged in memory between them.
//
// Thread safety: constant data, pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "kvplane/base/status.h"
#include "kvplane/codec/model_profile.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/codec/tile_coder.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// In chain order; one stage each, but several different ones in kSelect and kGeometry.
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

// What a stage does. Stages that do not drive a tile have only `validate` (and `needs_profile`). A code stage
// has `bind`, or the three plain functions when it keeps nothing between tiles.
struct StageFunctions {
  // Whether the stage may stand at chain[at] (slot order is already checked). The message names the rule.
  base::Status (*validate)(Chain chain, size_t at);

  // The fewest payload bytes a coded tile can have (method byte excluded), a function of chain and shape
  // alone.
  size_t (*least_bytes)(Chain chain, const TileShape& shape);
  // Writes the payload to `out`, which has the tile's raw_bytes(), and returns its length; 0: these values
  // cannot be held faithfully or take no less than raw, code them raw. Called where least_bytes() < raw.
  size_t (*encode)(Chain chain, const tensor::ConstTileView& in, Workspace& workspace,
                   std::span<std::byte> out);
  // Decodes exactly `in`, all or nothing: everything is checked before the first write to `out`.
  base::Status (*decode)(Chain chain, std::span<const std::byte> in, Workspace& workspace,
                         const tensor::TileView& out);

  // Binds a whole legal chain that ends in this stage; the chain outlives the coder. kUnimplemented: these
  // calls have nothing to bind, the plain functions code the chain. `profile` is null when the chain needs
  // none.
  base::Result<std::unique_ptr<TileCoder>> (*bind)(Chain chain, tensor::Side side,
                                                   std::shared_ptr<const ModelProfile> profile) = nullptr;
  // Whether the call takes constants of the model (rule L4); null: never.
  bool (*needs_profile)(const StageCall& call) = nullptr;
  // Whether a tile must hold all KV heads of the layer; null: never.
  bool (*needs_all_heads)(const StageCall& call) = nullptr;
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
  bool key_only = false;  // has a meaning for keys alone, such as undoing RoPE
};

constexpr uint8_t kStageProtect = 0x11;
constexpr uint8_t kStageHeads = 0x12;
constexpr uint8_t kStageLayers = 0x13;
constexpr uint8_t kStageUnrope = 0x21;
constexpr uint8_t kStageCentre = 0x22;
constexpr uint8_t kStageHadamard = 0x31;
constexpr uint8_t kStagePca = 0x32;
constexpr uint8_t kStageDelta = 0x33;
constexpr uint8_t kStageAffine = 0x51;
constexpr uint8_t kStageInt8 = 0x52;
constexpr uint8_t kStageFp8 = 0x53;
constexpr uint8_t kStageLevels = 0x54;
constexpr uint8_t kStageCachegen = 0x55;
constexpr uint8_t kStageLloyd = 0x56;
constexpr uint8_t kStageEcsq = 0x57;
constexpr uint8_t kStageTernary = 0x58;
constexpr uint8_t kStageNvfp4 = 0x59;
constexpr uint8_t kStageMxfp4 = 0x5a;
constexpr uint8_t kStageStore = 0x61;
constexpr uint8_t kStagePack = 0x62;
constexpr uint8_t kStageExponent = 0x63;
constexpr uint8_t kStageZstd = 0x64;
constexpr uint8_t kStageLz4 = 0x65;
constexpr uint8_t kStageRans = 0x66;
constexpr uint8_t kStageBitplane = 0x67;

std::span<const StageDescriptor> Stages();
const StageDescriptor* FindStage(uint8_t id);             // null when unknown
const StageDescriptor* FindStage(std::string_view name);  // null when unknown
std::string_view NearestStageName(std::string_view name);

// The row of a call whose id came from a parsed strategy.
const StageDescriptor& StageOf(const StageCall& call);

// The call of the chain with that id; null when the chain has none. And the call that fills the slot.
const StageCall* FindCall(Chain chain, uint8_t stage_id);
const StageCall* FindCall(Chain chain, Slot slot);

// Slot order, one stage per slot (see Slot), a code stage at the end, no key-only stage on the value side,
// then every stage's own rules. The message names the rule that is broken (docs/strategies.md lists them).
base::Status CheckLegal(Chain chain, tensor::Side side);

// Rule L1 of a code stage that takes the bf16 values themselves: nothing but selection stands before it.
base::Status CheckTakesValues(Chain chain, size_t at);

}  // namespace kvplane::codec
