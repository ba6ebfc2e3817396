#include "kvplane/model/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

namespace kvplane::model {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// Text of a piece inside a sentence: "▁the" -> " the", byte pieces -> the byte.
std::string PieceBytes(const sentencepiece::SentencePieceProcessor& processor, int id) {
  const std::string& name = processor.IdToPiece(id);
  if (processor.IsByte(id)) {  // "<0x0A>", checked by the library
    return std::string(1, static_cast<char>(std::stoi(name.substr(3, 2), nullptr, 16)));
  }
  std::string bytes;
  for (size_t i = 0; i < name.size();) {
    const bool mark = std::string_view(name).substr(i).starts_with(kSpaceMark);
    bytes.push_back(mark ? ' ' : name[i]);
    i += mark ? kSpaceMark.size() : 1;
  }
  return bytes;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(SentencePieceOptions options) : options_(options) {}

  base::Status Load(std::string_view model_bytes);

  std::string_view IdToPiece(int32_t id) const override {
    return Holds(id) ? std::string_view(pieces_[static_cast<size_t>(id)]) : std::string_view();
  }
  std::optional<int32_t> TokenToId(std::string_view token) const override {
    const int id = processor_.PieceToId(token);
    // The library answers the unknown id for anything it does not know.
    if (!Holds(id) || processor_.IdToPiece(id) != token) return std::nullopt;
    return id;
  }
  bool IsSpecial(int32_t id) const override {
    return Holds(id) && (processor_.IsControl(id) || processor_.IsUnknown(id));
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(pieces_.size()); }
  LeadingStrip leading_strip() const override {
    return {.content = ' ', .count = adds_space_ ? size_t{1} : 0};
  }

 protected:
  base::Status EncodeText(std::string_view text, bool add_special_tokens, bool parse_special,
                          std::vector<int32_t>* ids) const override;

 private:
  struct SpecialToken {
    std::string text;
    int32_t id;
  };

  bool Holds(int32_t id) const { return id >= 0 && id < vocab_size(); }
  base::Status EncodeSegment(std::string_view text, std::vector<int32_t>* ids) const;
  const SpecialToken* SpecialAt(std::string_view text) const;

  const SentencePieceOptions options_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> pieces_;     // by id
  std::vector<SpecialToken> specials_;  // longest first
  bool adds_space_ = false;             // the model puts a space before the first word
};

base::Status SentencePieceTokenizer::Load(std::string_view model_bytes) {
  if (const auto status = processor_.LoadFromSerializedProto(model_bytes); !status.ok()) {
    return base::Corrupt("not a SentencePiece model: {}", status.error_message());
  }
  const int count = processor_.GetPieceSize();
  if (count <= 0) return base::Corrupt("a SentencePiece model without pieces");
  pieces_.reserve(static_cast<size_t>(count));
  for (int id = 0; id < count; ++id) {
    pieces_.push_back(PieceBytes(processor_, id));
    if ((processor_.IsControl(id) || processor_.IsUnknown(id)) && !pieces_.back().empty()) {
      specials_.push_back({processor_.IdToPiece(id), id});
    }
  }
  std::sort(specials_.begin(), specials_.end(), [](const auto& a, const auto& b) {
    return a.text.size() != b.text.size() ? a.text.size() > b.text.size() : a.id < b.id;
  });
  // The library does not expose add_dummy_prefix; what it does to a letter tells.
  std::vector<std::string> probe;
  if (!processor_.Encode("a", &probe).ok()) return base::Corrupt("the SentencePiece model encodes nothing");
  adds_space_ = !probe.empty() && probe.front().starts_with(kSpaceMark);
  return base::Status::Ok();
}

const SentencePieceTokenizer::SpecialToken* SentencePieceTokenizer::SpecialAt(std::string_view text) const {
  for (const SpecialToken& special : specials_) {
    if (text.starts_with(special.text)) return &special;
  }
  return nullptr;
}

base::Status SentencePieceTokenizer::EncodeSegment(std::string_view text, std::vector<int32_t>* ids) const {
  if (text.empty()) return base::Status::Ok();
  std::vector<int> encoded;
  if (const auto status = processor_.Encode(text, &encoded); !status.ok()) {
    return base::Internal("SentencePiece: {}", status.error_message());
  }
  ids->insert(ids->end(), encoded.begin(), encoded.end());
  return base::Status::Ok();
}

base::Status SentencePieceTokenizer::EncodeText(std::string_view text, bool add_special_tokens,
                                                bool parse_special, std::vector<int32_t>* ids) const {
  if (add_special_tokens && options_.add_bos && processor_.bos_id() >= 0) ids->push_back(processor_.bos_id());
  size_t begin = 0;
  for (size_t i = 0; parse_special && i < text.size();) {
    const SpecialToken* special = SpecialAt(text.substr(i));
    if (special == nullptr) {
      ++i;
      continue;
    }
    KVPLANE_RETURN_IF_ERROR(EncodeSegment(text.substr(begin, i - begin), ids));
    ids->push_back(special->id);
    i += special->text.size();
    begin = i;
  }
  KVPLANE_RETURN_IF_ERROR(EncodeSegment(text.substr(begin), ids));
  if (add_special_tokens && options_.add_eos && processor_.eos_id() >= 0) ids->push_back(processor_.eos_id());
  return base::Status::Ok();
}

}  // namespace

base::Result<std::unique_ptr<Tokenizer>> ParseSentencePieceModel(std::string_view model_bytes,
                                                                 const SentencePieceOptions& options) {
  try {  // protobuf may throw
    auto tokenizer = std::make_unique<SentencePieceTokenizer>(options);
    KVPLANE_RETURN_IF_ERROR(tokenizer->Load(model_bytes));
    return std::unique_ptr<Tokenizer>(std::move(tokenizer));
  } catch (const std::exception& error) {
    return base::Corrupt("not a SentencePiece model: {}", error.what());
  }
}

}  // namespace kvplane::model
