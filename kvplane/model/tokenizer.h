// Tokenizer: text to token ids and back, as the model folder defines it.
//
// Load() takes the first of these that the folder holds:
//   tokenizer.json               byte-level BPE (GPT-2, Llama 3, Qwen) or BPE with byte fallback (Llama 2)
//   tokenizer.model              SentencePiece, through libsentencepiece
//   vocab.json with merges.txt   GPT-2 (any other tokenizer_class in tokenizer_config.json is refused)
// A broken file is kCorrupt and names the field; a legal but unknown component is kUnimplemented and
// names it. Nothing is guessed.
//
// Tokens inside the text: "<|im_end|>" typed by a user is text; written by a chat template it is a token.
// Hence `parse_special`, off by default. Added tokens that the file marks as not special (runs of
// spaces, say) are ordinary vocabulary and always recognised, as the reference implementations do.
//
// Thread safety: all methods are const and safe from many threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"

namespace kvplane::model {

// One text to encode: beyond every context window in use, and bounds the working memory (about 40 bytes
// per byte of text) of one call.
inline constexpr size_t kMaxTextBytes = size_t{16} << 20;

// The decoder drops up to `count` leading copies of `content` from the decoded text (SentencePiece
// writes a space before the first word that nobody typed).
struct LeadingStrip {
  char content = ' ';
  size_t count = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  static base::Result<std::unique_ptr<Tokenizer>> Load(const std::filesystem::path& model_folder);

  // `add_special_tokens`: what the folder asks for around a prompt (usually BOS). Errors: text that is
  // not UTF-8 (kInvalidArgument, with the offset), text above kMaxTextBytes (kResourceExhausted).
  base::Result<std::vector<int32_t>> Encode(std::string_view text, bool add_special_tokens,
                                            bool parse_special = false) const;

  // Always UTF-8: bytes that form no character become U+FFFD. Ids outside the vocabulary decode to
  // nothing. `skip_special` leaves out special tokens (BOS, EOS, chat markers).
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;

  // Raw bytes of one token as it stands inside a text: " the", "\xF0", "<s>". Perhaps half a character;
  // empty for an id outside the vocabulary. Valid as long as the tokenizer.
  virtual std::string_view IdToPiece(int32_t id) const = 0;
  // The id of a token by its name in the vocabulary file ("<s>", "<|im_end|>", "▁the").
  virtual std::optional<int32_t> TokenToId(std::string_view token) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  // One more than the largest id.
  virtual int32_t vocab_size() const = 0;
  virtual LeadingStrip leading_strip() const = 0;

  // From tokenizer_config.json, else generation_config.json, else config.json.
  std::optional<int32_t> bos_id() const { return bos_id_; }
  // Any of these ends a generation: those of generation_config.json (else config.json) and the eos_token of
  // tokenizer_config.json. Sorted, without repeats.
  std::span<const int32_t> eos_ids() const { return eos_ids_; }

 protected:
  Tokenizer() = default;
  // Appends; `text` is UTF-8 within the bounds.
  virtual base::Status EncodeText(std::string_view text, bool add_special_tokens, bool parse_special,
                                  std::vector<int32_t>* ids) const = 0;

 private:
  base::Status ReadSpecialIds(const std::filesystem::path& model_folder);

  std::optional<int32_t> bos_id_;
  std::vector<int32_t> eos_ids_;
};

}  // namespace kvplane::model
