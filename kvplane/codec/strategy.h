// Strategies: which stages, with which parameters, code each side of the KV cache.
//
// A strategy is written as text, parsed, checked for legality, printed canonically and hashed to a stable id:
//
//     k: affine(bits=4,group=64,axis=channel) | pack
//     v: affine(bits=4,group=64,axis=token) | pack
//
// Grammar (spaces and tabs are free everywhere between tokens):
//
//     strategy := preset | chain | side (";" | newline) side
//     side     := ("k" | "v") ":" chain
//     chain    := stage ("|" stage)*
//     stage    := name ["@" version] ["(" param ("," param)* ")"]
//     param    := [name "="] value
//
// A value without its name belongs to the stage's first parameter that has a choice of that name:
// `pca(layer)`. A bare chain stands for both sides. Parameters that are left out take the default of their
// table row (stage_registry.h); the default axis of `affine` is KIVI's: `channel` for keys, `token` for
// values. The canonical text gives the two sides in the order k, v, every parameter in table order, one blank
// around "|", "; " between the sides and no blank inside parentheses; "@version" only above 1. The canonical
// text of one side is also its form on the wire and in object headers.
//
// Thread safety: values; const access from many threads is safe.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::codec {

// Longest text accepted, of a strategy and of one side on the wire: far above any legal chain, small enough
// to be carried in every OPEN frame.
constexpr size_t kMaxStrategyTextBytes = 1024;
// Three of select, two of geometry, one of every other slot.
constexpr size_t kMaxStages = 9;
constexpr size_t kMaxStageParams = 4;

// One stage of a chain with its parameters resolved, in the order of its table row (stage_registry.h).
// Enumerated parameters hold the index of their name.
struct StageCall {
  uint8_t stage_id = 0;  // wire id
  uint8_t version = 1;   // format version
  std::array<uint32_t, kMaxStageParams> params{};
  bool operator==(const StageCall&) const = default;
};

// First 16 bytes of the SHA-256 of the canonical text: equal strategies have equal ids, for ever.
struct StrategyId {
  std::array<std::byte, 16> bytes{};
  auto operator<=>(const StrategyId&) const = default;
  std::string ToHex() const;
};

// The legal chain of one side. Default: `store`.
class SideStrategy {
 public:
  SideStrategy();

  // Parses one chain. `side` chooses side-dependent defaults and rules. kInvalidArgument names the position
  // (1-based column) and the reason.
  static base::Result<SideStrategy> Parse(std::string_view text, tensor::Side side);
  // Accepts canonical text only (what ToString() prints): one strategy, one wire form.
  static base::Result<SideStrategy> ParseCanonical(std::string_view text, tensor::Side side);

  std::span<const StageCall> stages() const { return stages_; }
  std::string ToString() const;
  // Whether decoded values may differ from the encoded ones.
  bool lossy() const;
  // Whether coding takes a ModelProfile, at both ends the same (rule L4).
  bool needs_profile() const;
  // Whether a tile must hold all KV heads of a layer (a basis over the whole layer).
  bool needs_all_heads() const;
  bool operator==(const SideStrategy&) const = default;

 private:
  std::vector<StageCall> stages_;
};

class Strategy {
 public:
  Strategy() = default;  // `off`: store on both sides
  Strategy(SideStrategy key, SideStrategy value) : sides_{std::move(key), std::move(value)} {}

  // A preset's name, a chain for both sides, or one chain per side (see the grammar above).
  static base::Result<Strategy> Parse(std::string_view text);

  const SideStrategy& side(tensor::Side side) const { return sides_[static_cast<size_t>(side)]; }
  std::string ToString() const;  // "k: store; v: store"
  StrategyId id() const;
  bool lossy() const { return sides_[0].lossy() || sides_[1].lossy(); }
  bool needs_profile() const { return sides_[0].needs_profile() || sides_[1].needs_profile(); }
  bool needs_all_heads() const { return sides_[0].needs_all_heads() || sides_[1].needs_all_heads(); }
  bool operator==(const Strategy&) const = default;

 private:
  std::array<SideStrategy, 2> sides_;
};

// A strategy with a name. Its text is a chain for both sides or one chain per side.
struct Preset {
  std::string_view name;
  std::string_view text;
  std::string_view meaning;
  std::string_view source;  // where the method is published; empty: our own combination
};

// The named strategies (docs/strategies.md says what each is and needs), plain ones first.
std::span<const Preset> Presets();
const Preset* FindPreset(std::string_view name);  // null when unknown

}  // namespace kvplane::codec
