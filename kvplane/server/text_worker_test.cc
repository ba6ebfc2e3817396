// Long texts are encoded apart: nothing else waits for them, and no more of them wait than may.
#include "kvplane/server/text_worker.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvplane/server/testing/demo_node.h"
#include "kvplane/server/testing/raw_client.h"

namespace kvplane::server {
namespace {

using nlohmann::json;
using testing::Call;
using testing::DemoNode;
using testing::DemoNodeOptions;
using testing::RawClient;
using testing::RawResponse;

// Holds who passes until it is opened.
class Gate {
 public:
  void Pass() {
    base::MutexLock lock(mutex_);
    ++arrived_;
    changed_.NotifyAll();
    while (!open_) changed_.Wait(mutex_);
  }
  void AwaitArrivals(int count) {
    base::MutexLock lock(mutex_);
    while (arrived_ < count) changed_.Wait(mutex_);
  }
  void Open() {
    base::MutexLock lock(mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  int arrived() {
    base::MutexLock lock(mutex_);
    return arrived_;
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  int arrived_ KVPLANE_GUARDED_BY(mutex_) = 0;
  bool open_ KVPLANE_GUARDED_BY(mutex_) = false;
};

struct OpenAtEnd {
  ~OpenAtEnd() { gate.Open(); }
  Gate& gate;
};

// Where the work's end is posted to.
class PostedExchange final : public Exchange {
 public:
  const HttpRequest& request() const override { return request_; }
  void Respond(HttpResponse) override {}
  void BeginStream(HttpResponse) override {}
  void Write(std::string_view) override {}
  void End() override {}
  void Abort() override {}
  bool gone() const override { return false; }
  void OnGone(std::function<void()>) override {}
  size_t buffered_bytes() const override { return 0; }
  void OnDrained(std::function<void()>) override {}
  void Post(std::function<void()> task) override {
    base::MutexLock lock(mutex_);
    tasks_.push_back(std::move(task));
    changed_.NotifyAll();
  }
  // Runs the next task that was posted, on the calling thread.
  void RunNext() {
    std::function<void()> task;
    {
      base::MutexLock lock(mutex_);
      while (tasks_.empty()) changed_.Wait(mutex_);
      task = std::move(tasks_.front());
      tasks_.erase(tasks_.begin());
    }
    task();
  }

 private:
  const HttpRequest request_;
  base::Mutex mutex_;
  base::CondVar changed_;
  std::vector<std::function<void()>> tasks_ KVPLANE_GUARDED_BY(mutex_);
};

TEST(TextWorkerUnit, ShortTextsAreEncodedHereLongOnesApartAndInOrder) {
  const auto exchange = std::make_shared<PostedExchange>();
  TextWorker worker(1 << 20);
  std::thread::id worked;
  int done = 0;
  ASSERT_TRUE(
      worker.Run(exchange, kShortTextBytes, [&] { worked = std::this_thread::get_id(); }, [&] { done = 1; }));
  EXPECT_EQ(worked, std::this_thread::get_id());
  EXPECT_EQ(done, 1);
  std::string order;
  for (const char name : {'a', 'b', 'c'}) {
    ASSERT_TRUE(worker.Run(
        exchange, kShortTextBytes + 1,
        [&, name] {
          worked = std::this_thread::get_id();
          order += name;
        },
        [&, name] { order += static_cast<char>(name - 'a' + 'A'); }));
    exchange->RunNext();
    EXPECT_NE(worked, std::this_thread::get_id());
  }
  EXPECT_EQ(order, "aAbBcC");
}

TEST(TextWorkerUnit, NoMoreWaitsThanMay) {
  const auto exchange = std::make_shared<PostedExchange>();
  Gate gate;
  TextWorker worker(100'000);
  const OpenAtEnd end{gate};
  const auto run = [&](size_t bytes) {
    const auto work = [&gate, bytes] {
      if (bytes > kShortTextBytes) gate.Pass();
    };
    return worker.Run(exchange, bytes, work, [] {});
  };
  EXPECT_TRUE(run(200'000)) << "nothing waits";
  gate.AwaitArrivals(1);
  EXPECT_FALSE(run(20'000)) << "what is being worked on counts";
  EXPECT_TRUE(run(kShortTextBytes)) << "short texts are not held up";
  gate.Open();
  exchange->RunNext();
  EXPECT_TRUE(run(60'000));
  exchange->RunNext();
}

// The demo model's, which stops in front of long texts.
class GatedTokenizer final : public model::Tokenizer {
 public:
  std::string_view IdToPiece(int32_t id) const override { return demo_.IdToPiece(id); }
  std::optional<int32_t> TokenToId(std::string_view token) const override { return demo_.TokenToId(token); }
  bool IsSpecial(int32_t id) const override { return demo_.IsSpecial(id); }
  int32_t vocab_size() const override { return demo_.vocab_size(); }
  model::LeadingStrip leading_strip() const override { return demo_.leading_strip(); }
  Gate& gate() const { return gate_; }

 protected:
  base::Status EncodeText(std::string_view text, bool add_special_tokens, bool parse_special,
                          std::vector<int32_t>* ids) const override {
    if (text.size() > kShortTextBytes) gate_.Pass();
    KVPLANE_ASSIGN_OR_RETURN(*ids, demo_.Encode(text, add_special_tokens, parse_special));
    return base::Status::Ok();
  }

 private:
  const model::Tokenizer& demo_ = testing::DemoTokenizer();
  mutable Gate gate_;
};

std::string LongPost(std::string_view path, size_t text_bytes) {
  const std::string body = json{{"prompt", std::string(text_bytes, 'a')}}.dump();
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
      path, body.size(), body);
}

std::string CodeOf(const RawResponse& response) {
  return json::parse(response.body)["error"].value("code", json()).dump();
}

TEST(TextWorkerSafety, ALongTextHoldsUpNobodyElse) {
  const GatedTokenizer tokenizer;
  DemoNodeOptions options;
  options.tokenizer = &tokenizer;
  DemoNode node(options);
  const OpenAtEnd end{tokenizer.gate()};
  RawClient generating(node.port());
  generating.Send(LongPost("/v1/completions", 100'000));
  tokenizer.gate().AwaitArrivals(1);
  RawClient counting(node.port());
  counting.Send(LongPost("/tokenize", 50'000));

  EXPECT_EQ(Call(node.port(), "GET", "/health").status, 200);
  EXPECT_EQ(Call(node.port(), "GET", "/v1/kv/endpoint").status, 200);
  EXPECT_EQ(Call(node.port(), "POST", "/tokenize", R"({"prompt": "a"})").status, 200);
  const RawResponse other =
      Call(node.port(), "POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 2})");
  EXPECT_EQ(other.status, 200) << other.body;
  tokenizer.gate().Open();
  for (RawClient* client : {&generating, &counting}) {
    const RawResponse late = client->ReadResponse(60'000);
    EXPECT_EQ(late.status, 413) << late.body;  // an "a" is a token, and the context holds 2,048
    EXPECT_EQ(CodeOf(late), "\"context_length_exceeded\"");
  }
}

TEST(TextWorkerSafety, TextsThatWaitAreBoundedAndThoseOfWhoLeftAreNotEncoded) {
  const GatedTokenizer tokenizer;
  DemoNodeOptions options;
  options.tokenizer = &tokenizer;
  options.server.max_waiting_text = 150'000;
  DemoNode node(options);
  const OpenAtEnd end{tokenizer.gate()};
  RawClient first(node.port());
  first.Send(LongPost("/v1/completions", 100'000));
  tokenizer.gate().AwaitArrivals(1);
  for (const std::string path : {"/v1/completions", "/tokenize"}) {
    RawClient refused(node.port());
    refused.Send(LongPost(path, 60'000));
    const RawResponse full = refused.ReadResponse(60'000);
    EXPECT_EQ(full.status, 503) << path << full.body;
    EXPECT_EQ(full.Header("Retry-After"), "1");
  }
  RawClient watching(node.port());
  const auto connections = [&] {
    watching.Send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    const std::string text = watching.ReadResponse(60'000).body;
    const std::string_view name = "\nkvplane_http_connections ";
    const size_t at = text.find(name);
    return at == std::string::npos ? -1 : std::stoi(text.substr(at + name.size()));
  };
  const auto await_connections = [&](int count) {
    for (int i = 0; i < 6000 && connections() != count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ASSERT_EQ(connections(), count);
  };
  await_connections(2);
  RawClient leaving(node.port());
  leaving.Send(LongPost("/v1/completions", 40'000));
  await_connections(3);
  leaving.Close();
  await_connections(2);
  tokenizer.gate().Open();
  EXPECT_EQ(first.ReadResponse(60'000).status, 413);
  first.Send(LongPost("/tokenize", 100'000));
  EXPECT_EQ(first.ReadResponse(60'000).status, 413);
  EXPECT_EQ(tokenizer.gate().arrived(), 2);
}

TEST(TextWorkerSafety, AnswersOfTokenizeAndDetokenizeAreNoLongerThanTheContext) {
  DemoNode node;
  const auto ids = [](size_t count) { return json{{"tokens", std::vector<int>(count, 300)}}.dump(); };
  EXPECT_EQ(Call(node.port(), "POST", "/detokenize", ids(2048)).status, 200);
  const RawResponse many = Call(node.port(), "POST", "/detokenize", ids(2049));
  EXPECT_EQ(many.status, 413);
  EXPECT_EQ(json::parse(many.body)["error"]["param"], "tokens");
  const auto text = [](size_t bytes) {
    return json{{"prompt", std::string(bytes, 'a')}, {"add_special_tokens", false}}.dump();
  };
  EXPECT_EQ(json::parse(Call(node.port(), "POST", "/tokenize", text(2048)).body)["count"], 2048);
  const RawResponse longer = Call(node.port(), "POST", "/tokenize", text(2049));
  EXPECT_EQ(longer.status, 413);
  EXPECT_NE(longer.body.find("2049 tokens"), std::string::npos) << longer.body;
  // Of no text of this length could the context hold the tokens: refused before it is encoded.
  const RawResponse hopeless = Call(node.port(), "POST", "/tokenize", text(size_t{1} << 20));
  EXPECT_EQ(hopeless.status, 413);
  EXPECT_NE(hopeless.body.find("more than 2048 tokens"), std::string::npos) << hopeless.body;
}

}  // namespace
}  // namespace kvplane::server
