#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "kvplane/model/json_file.h"
#include "kvplane/model/tokenizer_json_builder.h"

namespace kvplane::model {
namespace {

using nlohmann::json;

constexpr int kMaxSequenceDepth = 4;
constexpr size_t kMaxSteps = 32;  // per kind of component: real files have at most five
constexpr size_t kMaxReplacementBytes = 64;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// Views into `node`.
base::Result<std::string_view> TypeOf(const json& node, std::string_view where) {
  const json* type = FindField(node, "type");
  if (type == nullptr || !type->is_string()) return base::Corrupt("{} has no type", where);
  return std::string_view(type->get_ref<const std::string&>());
}

base::Status CheckDepth(int depth, std::string_view where) {
  if (depth > kMaxSequenceDepth)
    return base::Corrupt("{}: Sequence nested deeper than {}", where, kMaxSequenceDepth);
  return base::Status::Ok();
}

base::Result<SplitRegex> ReadPattern(const json& node, std::string_view where) {
  const json* pattern = FindField(node, "pattern");
  if (pattern == nullptr) return base::Corrupt("{}.pattern is missing", where);
  if (FindField(*pattern, "Regex") != nullptr) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string regex, StringField(*pattern, "Regex", where));
    return SplitRegex::CreateRegex(regex);
  }
  KVPLANE_ASSIGN_OR_RETURN(const std::string text, StringField(*pattern, "String", where));
  return SplitRegex::CreateLiteral(text);
}

}  // namespace

base::Status TokenizerJsonBuilder::AddReplace(const json& node) {
  NormalizerStep step{.kind = NormalizerStep::Kind::kReplace, .pattern = {}, .content = {}};
  KVPLANE_ASSIGN_OR_RETURN(SplitRegex pattern, ReadPattern(node, "normalizer"));
  step.pattern.push_back(std::move(pattern));
  KVPLANE_ASSIGN_OR_RETURN(step.content, StringField(node, "content", "normalizer"));
  parts_.normalizer.push_back(std::move(step));
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadNormalizer(const json& node, int depth) {
  KVPLANE_RETURN_IF_ERROR(CheckDepth(depth, "normalizer"));
  if (parts_.normalizer.size() >= kMaxSteps) return base::Corrupt("more than {} normalizers", kMaxSteps);
  KVPLANE_ASSIGN_OR_RETURN(const std::string_view type, TypeOf(node, "normalizer"));
  if (type == "Sequence") {
    KVPLANE_ASSIGN_OR_RETURN(const json* list, ListField(node, "normalizers", "normalizer"));
    for (const json& item : *list) KVPLANE_RETURN_IF_ERROR(ReadNormalizer(item, depth + 1));
    return base::Status::Ok();
  }
  if (type == "Replace") return AddReplace(node);
  NormalizerStep step{.kind = NormalizerStep::Kind::kNfc, .pattern = {}, .content = {}};
  if (type == "Prepend") {
    step.kind = NormalizerStep::Kind::kPrepend;
    KVPLANE_ASSIGN_OR_RETURN(step.content, StringField(node, "prepend", "normalizer"));
  } else if (type != "NFC") {
    return base::Unimplemented("normalizer '{}'", type);
  }
  parts_.normalizer.push_back(std::move(step));
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::AddSplit(std::string_view pattern, SplitBehavior behavior) {
  KVPLANE_ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::CreateRegex(pattern));
  parts_.pre_tokenizer.push_back({.pattern = std::move(regex), .behavior = behavior, .invert = false});
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadByteLevel(const json& node) {
  KVPLANE_ASSIGN_OR_RETURN(const bool prefix_space,
                           BoolField(node, "add_prefix_space", true, "pre_tokenizer"));
  KVPLANE_ASSIGN_OR_RETURN(const bool use_regex, BoolField(node, "use_regex", true, "pre_tokenizer"));
  if (prefix_space) {
    if (!parts_.pre_tokenizer.empty()) {
      return base::Unimplemented(
          "pre_tokenizer ByteLevel with add_prefix_space behind another pre-tokenizer");
    }
    NormalizerStep step{.kind = NormalizerStep::Kind::kPrepend, .pattern = {}, .content = " "};
    step.unless_present = true;
    parts_.normalizer.push_back(std::move(step));
  }
  options_.byte_level = true;
  return use_regex ? AddSplit(kGpt2Pattern, SplitBehavior::kIsolated) : base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadMetaspace(const json& node) {
  KVPLANE_ASSIGN_OR_RETURN(const std::string mark, StringField(node, "replacement", "pre_tokenizer"));
  if (mark != kSpaceMark) return base::Unimplemented("pre_tokenizer Metaspace with replacement '{}'", mark);
  if (!parts_.pre_tokenizer.empty()) return base::Unimplemented("Metaspace behind another pre-tokenizer");
  KVPLANE_ASSIGN_OR_RETURN(const bool legacy_prefix,
                           BoolField(node, "add_prefix_space", true, "pre_tokenizer"));
  std::string scheme = legacy_prefix ? "always" : "never";
  if (FindField(node, "prepend_scheme") != nullptr) {
    KVPLANE_ASSIGN_OR_RETURN(scheme, StringField(node, "prepend_scheme", "pre_tokenizer"));
  }
  KVPLANE_ASSIGN_OR_RETURN(const bool split, BoolField(node, "split", true, "pre_tokenizer"));
  NormalizerStep replace{.kind = NormalizerStep::Kind::kReplace, .pattern = {}, .content = mark};
  KVPLANE_ASSIGN_OR_RETURN(SplitRegex space, SplitRegex::CreateLiteral(" "));
  replace.pattern.push_back(std::move(space));
  parts_.normalizer.push_back(std::move(replace));
  if (scheme == "always" || scheme == "first") {
    NormalizerStep prepend{.kind = NormalizerStep::Kind::kPrepend, .pattern = {}, .content = mark};
    prepend.unless_present = true;
    prepend.first_only = scheme == "first";
    parts_.normalizer.push_back(std::move(prepend));
  } else if (scheme != "never") {
    return base::Unimplemented("pre_tokenizer Metaspace with prepend_scheme '{}'", scheme);
  }
  return split ? AddSplit(mark, SplitBehavior::kMergedWithNext) : base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadSplit(const json& node) {
  constexpr std::pair<std::string_view, SplitBehavior> kBehaviors[] = {
      {"Isolated", SplitBehavior::kIsolated},
      {"Removed", SplitBehavior::kRemoved},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
  };
  KVPLANE_ASSIGN_OR_RETURN(const std::string name, StringField(node, "behavior", "pre_tokenizer"));
  KVPLANE_ASSIGN_OR_RETURN(const bool invert, BoolField(node, "invert", false, "pre_tokenizer"));
  for (const auto& [known, behavior] : kBehaviors) {
    if (known != name) continue;
    KVPLANE_ASSIGN_OR_RETURN(SplitRegex pattern, ReadPattern(node, "pre_tokenizer"));
    parts_.pre_tokenizer.push_back({.pattern = std::move(pattern), .behavior = behavior, .invert = invert});
    return base::Status::Ok();
  }
  return base::Unimplemented("pre_tokenizer Split with behavior '{}'", name);
}

base::Status TokenizerJsonBuilder::ReadPreTokenizer(const json& node, int depth) {
  KVPLANE_RETURN_IF_ERROR(CheckDepth(depth, "pre_tokenizer"));
  if (parts_.pre_tokenizer.size() >= kMaxSteps)
    return base::Corrupt("more than {} pre-tokenizers", kMaxSteps);
  KVPLANE_ASSIGN_OR_RETURN(const std::string_view type, TypeOf(node, "pre_tokenizer"));
  if (type == "Sequence") {
    KVPLANE_ASSIGN_OR_RETURN(const json* list, ListField(node, "pretokenizers", "pre_tokenizer"));
    for (const json& item : *list) KVPLANE_RETURN_IF_ERROR(ReadPreTokenizer(item, depth + 1));
    return base::Status::Ok();
  }
  // Later patterns would see the byte alphabet instead of the text.
  if (options_.byte_level) return base::Unimplemented("pre_tokenizer '{}' behind ByteLevel", type);
  if (type == "ByteLevel") return ReadByteLevel(node);
  if (type == "Metaspace") return ReadMetaspace(node);
  if (type == "Split") return ReadSplit(node);
  if (type == "Digits") {
    KVPLANE_ASSIGN_OR_RETURN(const bool single, BoolField(node, "individual_digits", false, "pre_tokenizer"));
    return AddSplit(single ? "\\p{N}" : "\\p{N}+", SplitBehavior::kIsolated);
  }
  return base::Unimplemented("pre_tokenizer '{}'", type);
}

base::Status TokenizerJsonBuilder::ReadStrip(const json& node) {
  KVPLANE_ASSIGN_OR_RETURN(const std::string content, StringField(node, "content", "decoder"));
  const json* start = FindField(node, "start");
  const json* stop = FindField(node, "stop");
  if (start == nullptr || !start->is_number_unsigned()) return base::Corrupt("decoder.start is not a count");
  if (stop != nullptr && *stop != 0) return base::Unimplemented("decoder Strip with stop");
  if (content.size() != 1) return base::Unimplemented("decoder Strip of '{}'", content);
  if (!fused_) return base::Unimplemented("decoder Strip before Fuse");
  parts_.leading_strip = {.content = content[0], .count = start->get<size_t>()};
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadDecoder(const json& node, int depth) {
  KVPLANE_RETURN_IF_ERROR(CheckDepth(depth, "decoder"));
  KVPLANE_ASSIGN_OR_RETURN(const std::string_view type, TypeOf(node, "decoder"));
  if (type == "Sequence") {
    KVPLANE_ASSIGN_OR_RETURN(const json* list, ListField(node, "decoders", "decoder"));
    for (const json& item : *list) KVPLANE_RETURN_IF_ERROR(ReadDecoder(item, depth + 1));
    return base::Status::Ok();
  }
  if (type == "Strip") return ReadStrip(node);
  if (type == "Replace") return ReadDecodeReplace(node);
  if (type == "Metaspace") return ReadMetaspaceDecoder(node);
  if (type == "ByteLevel") {
    decodes_byte_level_ = true;
  } else if (type == "ByteFallback") {
    decodes_byte_tokens_ = true;
  } else if (type == "Fuse") {
    fused_ = true;
  } else {
    return base::Unimplemented("decoder '{}'", type);
  }
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadDecodeReplace(const json& node) {
  if (decode_replacements_.size() >= kMaxSteps) return base::Corrupt("more than {} decoders", kMaxSteps);
  const json* pattern = FindField(node, "pattern");
  if (pattern == nullptr || FindField(*pattern, "String") == nullptr) {
    return base::Unimplemented("decoder Replace without a pattern of type String");
  }
  Replacement replacement;
  KVPLANE_ASSIGN_OR_RETURN(replacement.pattern, StringField(*pattern, "String", "decoder.pattern"));
  KVPLANE_ASSIGN_OR_RETURN(replacement.content, StringField(node, "content", "decoder"));
  if (replacement.pattern.empty()) return base::Corrupt("decoder.pattern is empty");
  // Runs over every token at load; real files replace one character by another.
  if (replacement.content.size() > kMaxReplacementBytes) {
    return base::Corrupt("decoder.content has more than {} bytes", kMaxReplacementBytes);
  }
  decode_replacements_.push_back(std::move(replacement));
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadMetaspaceDecoder(const json& node) {
  KVPLANE_ASSIGN_OR_RETURN(const bool prefix, BoolField(node, "add_prefix_space", true, "decoder"));
  const json* scheme = FindField(node, "prepend_scheme");
  const bool strips = scheme == nullptr ? prefix : *scheme != "never";
  decode_replacements_.push_back({std::string(kSpaceMark), " "});
  parts_.leading_strip = {.content = ' ', .count = strips ? size_t{1} : size_t{0}};
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadPostProcessor(const json& node, int depth) {
  KVPLANE_RETURN_IF_ERROR(CheckDepth(depth, "post_processor"));
  KVPLANE_ASSIGN_OR_RETURN(const std::string_view type, TypeOf(node, "post_processor"));
  if (type == "Sequence") {
    KVPLANE_ASSIGN_OR_RETURN(const json* list, ListField(node, "processors", "post_processor"));
    for (const json& item : *list) KVPLANE_RETURN_IF_ERROR(ReadPostProcessor(item, depth + 1));
    return base::Status::Ok();
  }
  if (type == "TemplateProcessing") return ReadTemplate(node);
  // ByteLevel only trims offsets, which we do not report.
  if (type == "ByteLevel") return base::Status::Ok();
  return base::Unimplemented("post_processor '{}'", type);
}

base::Status TokenizerJsonBuilder::ReadTemplate(const json& node) {
  KVPLANE_ASSIGN_OR_RETURN(const json* single, ListField(node, "single", "post_processor"));
  if (single->size() > kMaxSteps)
    return base::Corrupt("post_processor.single has more than {} items", kMaxSteps);
  bool seen_text = false;
  for (const json& item : *single) KVPLANE_RETURN_IF_ERROR(ReadTemplateItem(item, node, &seen_text));
  if (!seen_text) return base::Corrupt("post_processor.single has no Sequence A");
  return base::Status::Ok();
}

base::Status TokenizerJsonBuilder::ReadTemplateItem(const json& item, const json& node, bool* seen_text) {
  constexpr std::string_view kWhere = "post_processor.single[]";
  if (const json* sequence = FindField(item, "Sequence")) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string id, StringField(*sequence, "id", kWhere));
    if (id != "A" || *seen_text) return base::Corrupt("{} is not one Sequence A", kWhere);
    *seen_text = true;
    return base::Status::Ok();
  }
  const json* token = FindField(item, "SpecialToken");
  if (token == nullptr) return base::Corrupt("{} is neither Sequence nor SpecialToken", kWhere);
  KVPLANE_ASSIGN_OR_RETURN(const std::string name, StringField(*token, "id", kWhere));
  const json* table = FindField(node, "special_tokens");
  const json* entry = table == nullptr ? nullptr : FindField(*table, name);
  if (entry == nullptr) return base::Corrupt("post_processor.special_tokens has no '{}'", name);
  KVPLANE_ASSIGN_OR_RETURN(const json* ids, ListField(*entry, "ids", "post_processor.special_tokens[]"));
  for (const json& value : *ids) {
    KVPLANE_ASSIGN_OR_RETURN(const int32_t id, ToId(value, "post_processor.special_tokens[].ids"));
    if (static_cast<size_t>(id) >= parts_.names.size()) {
      return base::Corrupt("post_processor names id {}, the vocabulary ends at {}", id, parts_.names.size());
    }
    (*seen_text ? parts_.suffix_ids : parts_.prefix_ids).push_back(id);
  }
  return base::Status::Ok();
}

}  // namespace kvplane::model
