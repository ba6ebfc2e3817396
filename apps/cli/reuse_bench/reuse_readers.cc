#include "apps/cli/reuse_bench/reuse_readers.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "kvplane/base/clock.h"
#include "kvplane/codec/strategy.h"

namespace kvplane::cli {
namespace {

constexpr base::Duration kRequestTimeout = std::chrono::seconds(60);

// Between requests: what one leaves behind (bytes on the link that it no longer wanted, a push) is not to be
// the next one's.
constexpr base::Duration kSettle = std::chrono::milliseconds(20);

// Tokens generated one at a time: enough to see that the loaded KV is right, few enough not to matter. With
// requests in flight: enough that some decode while others load.
constexpr uint32_t kGenerate = 8;
constexpr uint32_t kGenerateTogether = 32;

base::TimePoint After(base::Duration wait) { return base::Clock::System().Now() + wait; }

base::Result<CompletionResult> Ask(CompletionClient& client, const ReuseMode& mode, const Prompt& prompt,
                                   uint32_t tokens) {
  CompletionCall call;
  call.prompt = prompt.text;
  call.max_tokens = tokens;
  auto result = client.Complete(call, After(kRequestTimeout));
  if (!result.ok()) return result.status().Annotate(mode.name);
  return result;
}

void Add(ReuseReader& reader, const CompletionResult& result) {
  reader.ttft_s.push_back(result.ttft_s);
  const size_t after_first = std::max<size_t>(result.token_ids.size(), 2) - 1;
  reader.tpot_s.push_back((result.jct_s - result.ttft_s) / static_cast<double>(after_first));
  reader.cached_share.push_back(static_cast<double>(result.cached_tokens) /
                                static_cast<double>(std::max<uint32_t>(result.prompt_tokens, 1)));
}

// All prompts once, `clients` at a time; the answers in the prompts' order.
base::Result<std::vector<CompletionResult>> AskAll(const ReuseReader& reader,
                                                   const std::vector<Prompt>& prompts, uint32_t clients) {
  std::vector<CompletionResult> results(prompts.size());
  std::vector<base::Status> failures(clients);
  std::atomic<size_t> next = 0;
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < clients; ++i) {
    threads.emplace_back([&, i] {
      CompletionClient client(reader.node.http());
      for (size_t at = next++; at < prompts.size(); at = next++) {
        auto result = Ask(client, reader.mode, prompts[at], kGenerateTogether);
        if (!result.ok()) {
          failures[i] = result.status();
          return;
        }
        results[at] = *std::move(result);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const base::Status& failure : failures) KVPLANE_RETURN_IF_ERROR(failure);
  return results;
}

}  // namespace

void ReuseReader::Forget() {
  ttft_s.clear();
  tpot_s.clear();
  cached_share.clear();
  identical = 0;
}

base::Result<ReuseReader> StartReuseReader(const ReuseSetting& setting, const ReuseMode& mode) {
  KVPLANE_ASSIGN_OR_RETURN(NodeProcess node, StartReuseNode(setting, mode, "reader-" + mode.name));
  auto client = std::make_unique<CompletionClient>(node.http());
  ReuseReader reader{.mode = mode,
                     .node = std::move(node),
                     .client = std::move(client),
                     .ttft_s = {},
                     .tpot_s = {},
                     .cached_share = {}};
  if (!mode.strategy.empty()) {
    KVPLANE_ASSIGN_OR_RETURN(const codec::Strategy strategy, codec::Strategy::Parse(mode.strategy));
    reader.exact = !strategy.lossy();
  }
  return reader;
}

base::Status AskInTurn(std::vector<ReuseReader>& readers, const std::vector<Prompt>& prompts,
                       const std::vector<Prompt>& warmup, uint32_t rounds) {
  for (const Prompt& prompt : warmup) {
    for (ReuseReader& reader : readers) {
      KVPLANE_RETURN_IF_ERROR(Ask(*reader.client, reader.mode, prompt, kGenerate).status());
    }
  }
  for (ReuseReader& reader : readers) {
    for (const Prompt& prompt : prompts) {
      if (!reader.mode.keeps_local) break;
      KVPLANE_RETURN_IF_ERROR(Ask(*reader.client, reader.mode, prompt, kGenerate).status());
    }
  }
  for (size_t i = 0; i < rounds * prompts.size(); ++i) {
    std::vector<std::vector<int32_t>> outputs(readers.size());
    for (size_t turn = 0; turn < readers.size(); ++turn) {
      const size_t at = (i + turn) % readers.size();
      std::this_thread::sleep_for(kSettle);
      KVPLANE_ASSIGN_OR_RETURN(CompletionResult result, Ask(*readers[at].client, readers[at].mode,
                                                            prompts[i % prompts.size()], kGenerate));
      Add(readers[at], result);
      outputs[at] = std::move(result.token_ids);
    }
    for (size_t at = 0; at < readers.size(); ++at) {
      if (outputs[at] == outputs[0]) ++readers[at].identical;
    }
  }
  return base::Status::Ok();
}

base::Status AskTogether(std::vector<ReuseReader>& readers, const std::vector<Prompt>& prompts,
                         uint32_t rounds, uint32_t clients) {
  for (uint32_t round = 0; round < rounds; ++round) {
    std::vector<CompletionResult> first;
    for (ReuseReader& reader : readers) {
      std::this_thread::sleep_for(kSettle);
      KVPLANE_ASSIGN_OR_RETURN(std::vector<CompletionResult> results, AskAll(reader, prompts, clients));
      if (first.empty()) first = results;
      for (size_t i = 0; i < prompts.size(); ++i) {
        Add(reader, results[i]);
        if (results[i].token_ids == first[i].token_ids) ++reader.identical;
      }
    }
  }
  return base::Status::Ok();
}

}  // namespace kvplane::cli
