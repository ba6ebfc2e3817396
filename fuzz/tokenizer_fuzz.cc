// Bytes as tokenizer.json, vocab.json with merges.txt, or a text for a small fixed vocabulary. Whatever loads
// must encode and decode without a fault, and byte-level tokens must give the text back.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/model/detokenizer.h"
#include "kvplane/model/tokenizer_json.h"

namespace {

using kvplane::model::Tokenizer;

constexpr std::string_view kText = "Ab 12  \t\n\xC3\xA9\xE6\xBC\xA2\xF0\x9F\x98\x80 <s>\xE2\x96\x81 aab ab";

// A vocabulary of all bytes with a few merges, as vocab.json and merges.txt.
std::unique_ptr<Tokenizer> MakeByteLevel() {
  std::string vocab = "{";
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    vocab += fmt::format("\"\\u{:04x}\":{},", printable ? byte : next++, byte);
  }
  vocab += R"("aa":256,"ab":257,"aaab":258})";
  auto tokenizer = kvplane::model::ParseGpt2Files(vocab, "a a\na b\naa ab\n");
  if (!tokenizer.ok()) std::abort();
  return *std::move(tokenizer);
}

void Exercise(const Tokenizer& tokenizer, std::string_view text, bool lossless) {
  for (const bool flag : {false, true}) {
    const auto ids = tokenizer.Encode(text, flag, flag);
    if (!ids.ok()) continue;
    const std::string decoded = tokenizer.Decode(*ids, flag);
    if (lossless && decoded != text) std::abort();
    kvplane::model::Detokenizer detokenizer(tokenizer, {.skip_special = flag, .at_text_start = false});
    for (const int32_t id : *ids) (void)detokenizer.Push(id);
    (void)detokenizer.Flush();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* const byte_level = MakeByteLevel().release();
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 4 == 0) {
    Exercise(*byte_level, bytes, /*lossless=*/true);
    return 0;
  }
  const size_t half = bytes.find('\0') == std::string_view::npos ? bytes.size() : bytes.find('\0');
  const std::string_view rest = bytes.substr(std::min(half + 1, bytes.size()));
  const auto tokenizer = data[0] % 4 == 1 ? kvplane::model::ParseGpt2Files(bytes.substr(0, half), rest)
                                          : kvplane::model::ParseTokenizerJson(bytes);
  if (tokenizer.ok()) Exercise(**tokenizer, kText, /*lossless=*/false);
  return 0;
}
