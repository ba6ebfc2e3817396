// ChatTemplate: the Jinja template of a model folder, which turns messages into one prompt.
//
// A subset interpreter, enough for the templates model folders carry (Llama 2 and 3, Qwen2.5, Mistral):
//   statements   for (two names, filter, else), if/elif/else, set (names and namespace fields)
//   expressions  literals, lists, dictionaries, + - * / // % ~, comparisons, in, and/or/not, a if b else c,
//                attributes, indexing, slicing, tests ("is defined" ...), filters, string and dictionary
//                methods
//   functions    namespace, range, raise_exception
// with the settings of the reference implementation: trim_blocks, lstrip_blocks, one trailing newline
// dropped. Anything else (macros, includes, unknown filters) is kUnimplemented with its name and line when
// the template is compiled, not when a request comes.
//
// A template is untrusted input: compile and render are bounded in nesting, steps, bytes produced.
//
// Thread safety: a compiled template is immutable; Render is safe from many threads.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "kvplane/base/status.h"

namespace kvplane::model {

struct ChatMessage {
  std::string role;     // "system", "user", "assistant", ...
  std::string content;  // UTF-8
};

struct TemplateProgram;

class ChatTemplate {
 public:
  // kUnimplemented or kInvalidArgument, with the line.
  static base::Result<ChatTemplate> Compile(std::string_view source);

  // chat_template.jinja of the folder if it exists, else chat_template of its tokenizer_config.json: a
  // string, or a list of named ones of which "default" is taken. kNotFound when the folder has none.
  static base::Result<ChatTemplate> Load(const std::filesystem::path& model_folder);

  // `bos` and `eos` are the texts of these tokens, empty where there is none. Errors: raise_exception() and
  // wrong types (kInvalidArgument, with the line), a bound (kResourceExhausted).
  base::Result<std::string> Render(std::span<const ChatMessage> messages, std::string_view bos,
                                   std::string_view eos, bool add_generation_prompt) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const TemplateProgram> program) : program_(std::move(program)) {}

  std::shared_ptr<const TemplateProgram> program_;
};

}  // namespace kvplane::model
