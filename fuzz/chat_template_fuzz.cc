// Bytes as a chat template: it compiles and renders within its bounds, or says why not.
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "kvplane/model/chat_template.h"
#include "kvplane/model/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto compiled = kvplane::model::ChatTemplate::Compile({reinterpret_cast<const char*>(data), size});
  if (!compiled.ok()) return 0;
  const std::vector<kvplane::model::ChatMessage> messages = {
      {"system", "Be brief."}, {"user", " a\xC3\xA9 b "}, {"assistant", "yes"}, {"user", ""}};
  const auto text = compiled->Render(messages, "<s>", "</s>", true);
  if (text.ok() && kvplane::model::FindInvalidUtf8(*text)) std::abort();
  return 0;
}
