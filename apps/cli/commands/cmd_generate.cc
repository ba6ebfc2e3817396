#include "apps/cli/commands/cmd_generate.h"

#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/cli/exit_code.h"
#include "kvplane/base/log.h"
#include "kvplane/base/mutex.h"
#include "kvplane/model/detokenizer.h"

namespace kvplane::cli {
namespace {

// Prints text as it comes (unless quiet) and lets the main thread wait for the end.
class PrintingSink final : public engine::EventSink {
 public:
  PrintingSink(const model::Tokenizer& tokenizer, bool quiet)
      : detokenizer_(tokenizer, {.skip_special = true, .at_text_start = false}), quiet_(quiet) {}

  void OnToken(const engine::TokenEvent& event) override {
    base::MutexLock lock(mutex_);
    ids_.push_back(event.id);
    if (!event.stop) Emit(detokenizer_.Push(event.id));
  }
  void OnFinish(const engine::FinishEvent& event) override {
    base::MutexLock lock(mutex_);
    Emit(detokenizer_.Flush());
    finish_ = event;
    done_.NotifyAll();
  }

  engine::FinishEvent Await() {
    base::MutexLock lock(mutex_);
    while (!finish_) done_.Wait(mutex_);
    return *finish_;
  }
  std::string text() {
    base::MutexLock lock(mutex_);
    return text_;
  }
  std::vector<int32_t> ids() {
    base::MutexLock lock(mutex_);
    return ids_;
  }

 private:
  void Emit(std::string_view piece) KVPLANE_REQUIRES(mutex_) {
    text_ += piece;
    if (quiet_ || piece.empty()) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  }

  base::Mutex mutex_;
  base::CondVar done_;
  model::Detokenizer detokenizer_ KVPLANE_GUARDED_BY(mutex_);
  std::string text_ KVPLANE_GUARDED_BY(mutex_);
  std::vector<int32_t> ids_ KVPLANE_GUARDED_BY(mutex_);
  std::optional<engine::FinishEvent> finish_ KVPLANE_GUARDED_BY(mutex_);
  const bool quiet_;
};

base::Result<std::vector<int32_t>> PromptIds(const GenerateArgs& args, const NodeRuntime& runtime) {
  std::string prompt = args.prompt;
  if (prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  const model::Tokenizer& tokenizer = runtime.tokenizer();
  if (!args.chat) return tokenizer.Encode(prompt, true);
  if (runtime.chat_template() == nullptr) {
    return base::InvalidArgument("--chat: the model folder has no chat template");
  }
  const model::ChatMessage message{"user", prompt};
  const std::string bos = tokenizer.bos_id() ? std::string(tokenizer.IdToPiece(*tokenizer.bos_id())) : "";
  KVPLANE_ASSIGN_OR_RETURN(const std::string text,
                           runtime.chat_template()->Render({&message, 1}, bos, "", true));
  return tokenizer.Encode(text, false, true);
}

base::Status Generate(const GenerateArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(const std::unique_ptr<NodeRuntime> runtime, NodeRuntime::Create(args.runtime));
  engine::Request request;
  KVPLANE_ASSIGN_OR_RETURN(request.prompt, PromptIds(args, *runtime));
  request.max_tokens = args.max_tokens;
  request.sampling.temperature = static_cast<float>(args.temperature);
  request.sampling.top_p = static_cast<float>(args.top_p);
  request.sampling.seed = args.seed;
  const auto sink = std::make_shared<PrintingSink>(runtime->tokenizer(), args.json);
  KVPLANE_RETURN_IF_ERROR(runtime->engine().Submit(std::move(request), sink).status());
  const engine::FinishEvent finish = sink->Await();
  if (!finish.status.ok()) return finish.status;
  if (args.json) {
    const nlohmann::json out = {{"text", sink->text()},
                                {"token_ids", sink->ids()},
                                {"prompt_tokens", finish.prompt_tokens},
                                {"completion_tokens", finish.generated_tokens},
                                {"ttft_ms", base::ToMillis(finish.ttft)},
                                {"total_ms", base::ToMillis(finish.total)}};
    fmt::print("{}\n", out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("\n");
  }
  return base::Status::Ok();
}

}  // namespace

int CmdGenerate(const GenerateArgs& args) {
  base::ConfigureLog({.level = base::LogLevel::kWarn, .json = false, .component = ""});
  const base::Status status = Generate(args);
  if (!status.ok()) fmt::print(stderr, "kvplane generate: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace kvplane::cli
