#include "kvplane/model/bpe_tokenizer.h"

#include <utility>

namespace kvplane::model {

BpeTokenizer::BpeTokenizer(BpeTokenizerParts parts, BpeModel model)
    : parts_(std::move(parts)), model_(std::move(model)) {
  id_of_name_.reserve(parts_.names.size());
  for (size_t id = 0; id < parts_.names.size(); ++id) {
    if (!parts_.names[id].empty()) id_of_name_.emplace(parts_.names[id], static_cast<int32_t>(id));
  }
}

std::string_view BpeTokenizer::IdToPiece(int32_t id) const {
  return Holds(id) ? std::string_view(parts_.pieces[static_cast<size_t>(id)]) : std::string_view();
}

std::optional<int32_t> BpeTokenizer::TokenToId(std::string_view token) const {
  const auto found = id_of_name_.find(token);
  if (found == id_of_name_.end()) return std::nullopt;
  return found->second;
}

bool BpeTokenizer::IsSpecial(int32_t id) const {
  return Holds(id) && parts_.special[static_cast<size_t>(id)];
}

base::Status BpeTokenizer::EncodeText(std::string_view text, bool add_special_tokens, bool parse_special,
                                      std::vector<int32_t>* ids) const {
  if (add_special_tokens) ids->insert(ids->end(), parts_.prefix_ids.begin(), parts_.prefix_ids.end());
  size_t offset = 0;
  AddedTokens::Match match;
  while (parts_.added.Find(text, offset, parse_special, &match)) {
    KVPLANE_RETURN_IF_ERROR(EncodeSegment(text.substr(offset, match.range.begin - offset), offset == 0, ids));
    ids->push_back(match.id);
    offset = match.range.end;
  }
  KVPLANE_RETURN_IF_ERROR(EncodeSegment(text.substr(offset), offset == 0, ids));
  if (add_special_tokens) ids->insert(ids->end(), parts_.suffix_ids.begin(), parts_.suffix_ids.end());
  return base::Status::Ok();
}

base::Status BpeTokenizer::EncodeSegment(std::string_view text, bool first, std::vector<int32_t>* ids) const {
  std::string normalized;
  if (!parts_.normalizer.empty()) {
    KVPLANE_RETURN_IF_ERROR(Normalize(parts_.normalizer, text, first, &normalized));
    text = normalized;
  }
  std::vector<std::string_view> words;
  KVPLANE_RETURN_IF_ERROR(PreTokenize(parts_.pre_tokenizer, text, &words));
  for (const std::string_view word : words) KVPLANE_RETURN_IF_ERROR(model_.Encode(word, ids));
  return base::Status::Ok();
}

}  // namespace kvplane::model
