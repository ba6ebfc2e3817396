// UTF-8 by hand: validation, stepping and repair, as the Unicode standard words them.
//
// Ill-formed bytes are grouped into "maximal subparts" (The Unicode Standard 15, section 3.9, table
// 3-8), each of which stands for one U+FFFD when text is repaired; Python and Rust do the same.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kvplane::model {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

struct Utf8Step {
  char32_t code_point = kReplacementCharacter;  // kReplacementCharacter when !valid
  size_t length = 0;                            // bytes to step over, at least 1
  bool valid = false;
  bool incomplete = false;  // !valid only because the text ends here: more bytes could make it valid
};

// The character at `offset`, which must be less than text.size().
Utf8Step NextUtf8(std::string_view text, size_t offset);

// Offset of the first ill-formed byte, or nothing when all of `text` is UTF-8.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

// How many bytes at the end of `text` (0 to 3) begin a character that later bytes may complete.
size_t IncompleteUtf8Suffix(std::string_view text);

// The White_Space property (unchanged from Unicode 6.3 to 15).
bool IsWhiteSpace(char32_t code_point);

// `code_point` must be a Unicode scalar value.
void AppendUtf8(char32_t code_point, std::string* out);

// Appends `text` with every maximal subpart of ill-formed bytes replaced by U+FFFD.
void AppendRepairedUtf8(std::string_view text, std::string* out);

}  // namespace kvplane::model
