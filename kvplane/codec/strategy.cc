#include "kvplane/codec/strategy.h"

#include <fmt/format.h>
#include <openssl/sha.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

#include "kvplane/base/edit_distance.h"
#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {
namespace {

bool IsNameChar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

// A cursor over strategy text. Every error names line and column, both from 1.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  void SkipBlanks(bool newlines = false) {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\r' ||
                                  (newlines && (text_[at_] == '\n' || text_[at_] == ';')))) {
      ++at_;
    }
  }
  bool AtEnd() const { return at_ == text_.size(); }
  bool AtSeparator() const { return !AtEnd() && (text_[at_] == ';' || text_[at_] == '\n'); }
  bool Take(char c) {
    SkipBlanks();
    if (AtEnd() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  // Letters, digits, '_' and '-'; may be empty.
  std::string_view Word() {
    SkipBlanks();
    const size_t begin = at_;
    while (at_ < text_.size() && IsNameChar(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }
  size_t position() const { return at_; }

  template <typename... Args>
  base::Status Error(size_t at, fmt::format_string<Args...> format, Args&&... args) const {
    const std::string_view before = text_.substr(0, at);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t newline = before.rfind('\n');
    const size_t column = newline == std::string_view::npos ? at + 1 : at - newline;
    return base::InvalidArgument("strategy, line {}, column {}: {}", line, column,
                                 fmt::format(format, std::forward<Args>(args)...));
  }
  // What stands at the cursor, for messages.
  std::string Here() const { return AtEnd() ? "the end" : fmt::format("'{}'", text_[at_]); }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

std::optional<uint32_t> ParseNumber(std::string_view word) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return value;
}

std::string LegalValues(const ParamSpec& spec) {
  if (!spec.choices.empty()) return fmt::format("{}", fmt::join(spec.choices, ", "));
  if (!spec.allowed.empty()) return fmt::format("{}", fmt::join(spec.allowed, ", "));
  if (spec.multiple_of > 1)
    return fmt::format("{}..{}, a multiple of {}", spec.min, spec.max, spec.multiple_of);
  return fmt::format("{}..{}", spec.min, spec.max);
}

std::optional<uint32_t> ParseParam(const ParamSpec& spec, std::string_view word) {
  if (!spec.choices.empty()) {
    const auto at = std::find(spec.choices.begin(), spec.choices.end(), word);
    if (at == spec.choices.end()) return std::nullopt;
    return static_cast<uint32_t>(at - spec.choices.begin());
  }
  const std::optional<uint32_t> value = ParseNumber(word);
  if (!value) return std::nullopt;
  if (!spec.allowed.empty()) {
    if (std::find(spec.allowed.begin(), spec.allowed.end(), *value) == spec.allowed.end())
      return std::nullopt;
    return value;
  }
  if (*value < spec.min || *value > spec.max || *value % spec.multiple_of != 0) return std::nullopt;
  return value;
}

// The first parameter that has a choice of that name, or the end.
std::span<const ParamSpec>::iterator ParamOfChoice(const StageDescriptor& stage, std::string_view choice) {
  return std::find_if(stage.params.begin(), stage.params.end(), [choice](const ParamSpec& spec) {
    return std::find(spec.choices.begin(), spec.choices.end(), choice) != spec.choices.end();
  });
}

// "(bits=4, group=64)" after a stage name, into `call`.
base::Status ParseParams(Scanner& scan, const StageDescriptor& stage, StageCall& call) {
  std::array<bool, kMaxStageParams> seen{};
  if (scan.Take(')')) return base::Status::Ok();
  do {
    scan.SkipBlanks();
    const size_t at = scan.position();
    const std::string_view name = scan.Word();
    auto spec = std::find_if(stage.params.begin(), stage.params.end(),
                             [name](const ParamSpec& candidate) { return candidate.name == name; });
    bool bare = false;
    if (spec == stage.params.end()) {
      spec = ParamOfChoice(stage, name);
      bare = true;
    }
    if (spec == stage.params.end()) {
      std::vector<std::string_view> names;
      for (const ParamSpec& candidate : stage.params) names.push_back(candidate.name);
      return scan.Error(at, "'{}' has no parameter '{}'{}{}", stage.name, name,
                        names.empty() ? "" : "; it has ", fmt::join(names, ", "));
    }
    const auto index = static_cast<size_t>(spec - stage.params.begin());
    if (seen[index]) return scan.Error(at, "'{}' is given twice", spec->name);
    seen[index] = true;
    if (bare) {
      call.params[index] = *ParseParam(*spec, name);
      continue;
    }
    if (!scan.Take('=')) {
      return scan.Error(scan.position(), "expected '=' after '{}', found {}", name, scan.Here());
    }
    scan.SkipBlanks();
    const size_t value_at = scan.position();
    const std::string_view word = scan.Word();
    const std::optional<uint32_t> value = ParseParam(*spec, word);
    if (!value) {
      return scan.Error(value_at, "{}.{} = '{}' is not one of: {}", stage.name, name, word,
                        LegalValues(*spec));
    }
    call.params[index] = *value;
  } while (scan.Take(','));
  if (!scan.Take(')')) return scan.Error(scan.position(), "expected ',' or ')', found {}", scan.Here());
  return base::Status::Ok();
}

base::Result<StageCall> ParseStage(Scanner& scan, tensor::Side side) {
  scan.SkipBlanks();
  const size_t at = scan.position();
  const std::string_view name = scan.Word();
  if (name.empty()) return scan.Error(at, "expected a stage name, found {}", scan.Here());
  const StageDescriptor* stage = FindStage(name);
  if (stage == nullptr) {
    return scan.Error(at, "unknown stage '{}'; did you mean '{}'?", name, NearestStageName(name));
  }
  StageCall call;
  call.stage_id = stage->id;
  for (size_t i = 0; i < stage->params.size(); ++i) {
    call.params[i] = stage->params[i].default_of_side[static_cast<size_t>(side)];
  }
  if (scan.Take('@')) {
    const std::optional<uint32_t> version = ParseNumber(scan.Word());
    if (!version || *version < stage->min_version || *version > stage->max_version) {
      return scan.Error(at, "this build knows versions {}..{} of '{}'", stage->min_version,
                        stage->max_version, name);
    }
    call.version = static_cast<uint8_t>(*version);
  }
  if (scan.Take('(')) KVPLANE_RETURN_IF_ERROR(ParseParams(scan, *stage, call));
  return call;
}

base::Result<std::vector<StageCall>> ParseChain(Scanner& scan, tensor::Side side) {
  scan.SkipBlanks();
  const size_t begin = scan.position();
  std::vector<StageCall> stages;
  do {
    if (stages.size() == kMaxStages) return scan.Error(scan.position(), "more than {} stages", kMaxStages);
    KVPLANE_ASSIGN_OR_RETURN(stages.emplace_back(), ParseStage(scan, side));
  } while (scan.Take('|'));
  scan.SkipBlanks();
  if (!scan.AtEnd() && !scan.AtSeparator()) {
    return scan.Error(scan.position(), "expected '|' or the end of the chain, found {}", scan.Here());
  }
  const base::Status legal = CheckLegal(stages, side);
  if (!legal.ok()) return scan.Error(begin, "{}", legal.message());
  return stages;
}

base::Status CheckLength(std::string_view text) {
  if (text.size() <= kMaxStrategyTextBytes) return base::Status::Ok();
  return base::InvalidArgument("strategy of {} bytes: at most {}", text.size(), kMaxStrategyTextBytes);
}

// One word that names nothing: the nearest name, and the presets.
base::Status UnknownWord(std::string_view word) {
  const std::string_view typed = word.substr(0, 64);
  std::string_view nearest = NearestStageName(typed);
  std::vector<std::string_view> names;
  for (const Preset& preset : Presets()) {
    names.push_back(preset.name);
    if (base::EditDistance(typed, preset.name) < base::EditDistance(typed, nearest)) nearest = preset.name;
  }
  return base::InvalidArgument(
      "strategy, line 1, column 1: '{}' is neither a preset nor a stage; did you mean '{}'? Presets: {}",
      word, nearest, fmt::join(names, ", "));
}

// "k: chain ; v: chain" with the sides in any order.
base::Result<Strategy> ParseSides(std::string_view text) {
  Scanner scan(text);
  std::optional<SideStrategy> sides[2];
  for (scan.SkipBlanks(true); !scan.AtEnd(); scan.SkipBlanks(true)) {
    const size_t at = scan.position();
    const std::string_view label = scan.Word();
    if (label != "k" && label != "v") return scan.Error(at, "expected 'k:' or 'v:', found '{}'", label);
    if (!scan.Take(':')) return scan.Error(scan.position(), "expected ':', found {}", scan.Here());
    const tensor::Side side = label == "k" ? tensor::Side::kKey : tensor::Side::kValue;
    auto& target = sides[static_cast<size_t>(side)];
    if (target) return scan.Error(at, "side '{}' is given twice", label);
    // The side is parsed again from its own text, so that one function builds a SideStrategy.
    const size_t begin = scan.position();
    KVPLANE_RETURN_IF_ERROR(ParseChain(scan, side).status());
    KVPLANE_ASSIGN_OR_RETURN(target, SideStrategy::Parse(text.substr(begin, scan.position() - begin), side));
  }
  for (const tensor::Side side : tensor::kSides) {
    if (!sides[static_cast<size_t>(side)]) {
      return scan.Error(text.size(), "side '{}' is missing", side == tensor::Side::kKey ? "k" : "v");
    }
  }
  return Strategy(*std::move(sides[0]), *std::move(sides[1]));
}

}  // namespace

std::string StrategyId::ToHex() const {
  std::string hex;
  for (const std::byte b : bytes) hex += fmt::format("{:02x}", static_cast<unsigned>(b));
  return hex;
}

SideStrategy::SideStrategy() : stages_{StageCall{.stage_id = kStageStore}} {}

base::Result<SideStrategy> SideStrategy::Parse(std::string_view text, tensor::Side side) {
  KVPLANE_RETURN_IF_ERROR(CheckLength(text));
  Scanner scan(text);
  SideStrategy strategy;
  KVPLANE_ASSIGN_OR_RETURN(strategy.stages_, ParseChain(scan, side));
  if (!scan.AtEnd()) return scan.Error(scan.position(), "expected one chain, found {}", scan.Here());
  return strategy;
}

base::Result<SideStrategy> SideStrategy::ParseCanonical(std::string_view text, tensor::Side side) {
  KVPLANE_ASSIGN_OR_RETURN(SideStrategy strategy, Parse(text, side));
  const std::string canonical = strategy.ToString();
  if (canonical != text) return base::InvalidArgument("not in canonical form; that is '{}'", canonical);
  return strategy;
}

std::string SideStrategy::ToString() const {
  std::string text;
  for (const StageCall& call : stages_) {
    const StageDescriptor& stage = StageOf(call);
    if (!text.empty()) text += " | ";
    text += stage.name;
    if (call.version > 1) text += fmt::format("@{}", call.version);
    for (size_t i = 0; i < stage.params.size(); ++i) {
      const ParamSpec& spec = stage.params[i];
      text += fmt::format("{}{}=", i == 0 ? '(' : ',', spec.name);
      text += spec.choices.empty() ? fmt::format("{}", call.params[i])
                                   : std::string(spec.choices[call.params[i]]);
    }
    if (!stage.params.empty()) text += ')';
  }
  return text;
}

bool SideStrategy::lossy() const {
  return std::any_of(stages_.begin(), stages_.end(),
                     [](const StageCall& call) { return StageOf(call).lossy; });
}

bool SideStrategy::needs_profile() const {
  return std::any_of(stages_.begin(), stages_.end(), [](const StageCall& call) {
    const auto needs_profile = StageOf(call).functions->needs_profile;
    return needs_profile != nullptr && needs_profile(call);
  });
}

bool SideStrategy::needs_all_heads() const {
  return std::any_of(stages_.begin(), stages_.end(), [](const StageCall& call) {
    const auto needs_all_heads = StageOf(call).functions->needs_all_heads;
    return needs_all_heads != nullptr && needs_all_heads(call);
  });
}

base::Result<Strategy> Strategy::Parse(std::string_view text) {
  KVPLANE_RETURN_IF_ERROR(CheckLength(text));
  const size_t begin = text.find_first_not_of(" \t\r\n");
  const size_t end = text.find_last_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return base::InvalidArgument("the strategy is empty");
  const std::string_view bare = text.substr(begin, end - begin + 1);
  const Preset* preset = FindPreset(bare);
  const std::string_view chain = preset == nullptr ? bare : preset->text;
  if (chain.find(':') != std::string_view::npos) return ParseSides(preset == nullptr ? text : chain);
  const bool word = std::all_of(chain.begin(), chain.end(), IsNameChar);
  if (word && FindStage(chain) == nullptr) return UnknownWord(chain);
  KVPLANE_ASSIGN_OR_RETURN(SideStrategy key, SideStrategy::Parse(chain, tensor::Side::kKey));
  KVPLANE_ASSIGN_OR_RETURN(SideStrategy value, SideStrategy::Parse(chain, tensor::Side::kValue));
  return Strategy(std::move(key), std::move(value));
}

std::string Strategy::ToString() const {
  return fmt::format("k: {}; v: {}", sides_[0].ToString(), sides_[1].ToString());
}

StrategyId Strategy::id() const {
  const std::string text = ToString();
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  StrategyId id;
  std::memcpy(id.bytes.data(), digest, id.bytes.size());
  return id;
}

}  // namespace kvplane::codec
