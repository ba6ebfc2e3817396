#include "kvplane/model/chat_template.h"

#include <nlohmann/json.hpp>
#include <system_error>

#include "kvplane/model/json_file.h"
#include "kvplane/model/template_lexer.h"
#include "kvplane/model/template_program.h"
#include "kvplane/model/template_renderer.h"
#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

using nlohmann::json;

// A string, or a list of {"name": ..., "template": ...}.
base::Result<std::string> ChooseTemplate(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return base::Corrupt("chat_template is neither a string nor a list");
  for (const json& item : value) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string name, StringField(item, "name", "chat_template[]"));
    if (name == "default") return StringField(item, "template", "chat_template[]");
  }
  return base::NotFound("chat_template has no entry named 'default'");
}

base::Result<std::string> ReadSource(const std::filesystem::path& folder) {
  const std::filesystem::path own_file = folder / "chat_template.jinja";
  std::error_code error;
  if (std::filesystem::exists(own_file, error)) return ReadTextFile(own_file, kMaxTemplateBytes);
  KVPLANE_ASSIGN_OR_RETURN(const json config, ReadJsonObject(folder / "tokenizer_config.json"));
  const json* value = FindField(config, "chat_template");
  if (value == nullptr) return base::NotFound("{}: no chat template", folder.string());
  return ChooseTemplate(*value);
}

}  // namespace

base::Result<ChatTemplate> ChatTemplate::Compile(std::string_view source) {
  auto program = ParseTemplate(source);
  if (!program.ok()) return program.status().Annotate("chat template");
  return ChatTemplate(std::make_shared<const TemplateProgram>(*std::move(program)));
}

base::Result<ChatTemplate> ChatTemplate::Load(const std::filesystem::path& model_folder) {
  KVPLANE_ASSIGN_OR_RETURN(const std::string source, ReadSource(model_folder));
  auto compiled = Compile(source);
  if (!compiled.ok()) return compiled.status().Annotate(model_folder.string());
  return compiled;
}

base::Result<std::string> ChatTemplate::Render(std::span<const ChatMessage> messages, std::string_view bos,
                                               std::string_view eos, bool add_generation_prompt) const {
  TemplateValue::List list;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (FindInvalidUtf8(message.role) || FindInvalidUtf8(message.content)) {
      return base::InvalidArgument("messages[{}] is not UTF-8", i);
    }
    KVPLANE_ASSIGN_OR_RETURN(TemplateValue entry,
                             TemplateValue::FromDict({{"role", TemplateValue::String(message.role)},
                                                      {"content", TemplateValue::String(message.content)}}));
    list.push_back(std::move(entry));
  }
  KVPLANE_ASSIGN_OR_RETURN(TemplateValue all, TemplateValue::FromList(std::move(list)));
  TemplateValue::Dict variables;
  variables.emplace_back("messages", std::move(all));
  variables.emplace_back("bos_token", TemplateValue::String(std::string(bos)));
  variables.emplace_back("eos_token", TemplateValue::String(std::string(eos)));
  variables.emplace_back("add_generation_prompt", TemplateValue::Bool(add_generation_prompt));
  // The reference implementation always passes these two.
  variables.emplace_back("tools", TemplateValue::None());
  variables.emplace_back("documents", TemplateValue::None());
  auto text = RenderTemplate(*program_, std::move(variables));
  if (!text.ok()) return text.status().Annotate("chat template");
  return text;
}

}  // namespace kvplane::model
