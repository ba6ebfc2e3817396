#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/sched/admit.h"

namespace kvplane::sched {
namespace {

using base::RequestId;
using Phase = RunningView::Phase;

WaitingView Waiting(uint64_t id, uint32_t prompt, uint32_t blocks, bool awaits_kv = false) {
  return {.id = {id}, .prompt_tokens = prompt, .reserve_blocks = blocks, .awaits_kv = awaits_kv};
}

RunningView Running(uint64_t id, Phase phase, uint32_t prompt, uint32_t done) {
  return {.id = {id}, .phase = phase, .prompt_tokens = prompt, .prompt_done = done};
}

TEST(AdmitUnit, NothingToDo) {
  const Batch batch = Admit({}, {}, {.step_tokens = 128, .max_running = 4, .unreserved_blocks = 0});
  EXPECT_TRUE(batch.admitted.empty());
  EXPECT_TRUE(batch.slices.empty());
  EXPECT_EQ(batch.tokens(), 0u);
}

TEST(AdmitUnit, DecodeFirstThenChunksThenTheQueue) {
  const std::vector<RunningView> running = {Running(1, Phase::kPrefill, 300, 64),
                                            Running(2, Phase::kDecode, 50, 50),
                                            Running(3, Phase::kAwaitingKv, 70, 0)};
  const std::vector<WaitingView> waiting = {Waiting(4, 20, 1), Waiting(5, 400, 1)};
  const Batch batch =
      Admit(waiting, running, {.step_tokens = 400, .max_running = 8, .unreserved_blocks = 100});
  ASSERT_EQ(batch.slices.size(), 4u);
  EXPECT_EQ(batch.slices[0].id, RequestId{2});
  EXPECT_TRUE(batch.slices[0].decode);
  EXPECT_EQ(batch.slices[1].id, RequestId{1});
  EXPECT_EQ(batch.slices[1].first_token, 64u);
  EXPECT_EQ(batch.slices[1].tokens, 236u);
  EXPECT_TRUE(batch.slices[1].ends_prompt);
  EXPECT_EQ(batch.slices[2].id, RequestId{4});
  EXPECT_EQ(batch.slices[2].tokens, 20u);
  EXPECT_EQ(batch.slices[3].id, RequestId{5});
  EXPECT_EQ(batch.slices[3].tokens, 128u);  // 143 left, rounded down to tiles
  EXPECT_FALSE(batch.slices[3].ends_prompt);
  EXPECT_EQ(batch.admitted, (std::vector<RequestId>{{4}, {5}}));
}

TEST(AdmitUnit, APromptThatWaitsForAStoreIsOvertaken) {
  std::vector<RunningView> running = {Running(1, Phase::kPrefill, 1000, 0),
                                      Running(2, Phase::kPrefill, 1000, 256),
                                      Running(3, Phase::kPrefill, 90, 0)};
  running[0].compute_until = 0;
  running[1].compute_until = 512;
  const std::vector<WaitingView> waiting = {Waiting(4, 20, 1)};
  const Batch batch =
      Admit(waiting, running, {.step_tokens = 400, .max_running = 8, .unreserved_blocks = 100});
  ASSERT_EQ(batch.slices.size(), 3u);
  EXPECT_EQ(batch.slices[0].id, RequestId{2});
  EXPECT_EQ(batch.slices[0].first_token, 256u);
  EXPECT_EQ(batch.slices[0].tokens, 256u);
  EXPECT_FALSE(batch.slices[0].ends_prompt);
  EXPECT_EQ(batch.slices[1].id, RequestId{3});
  EXPECT_TRUE(batch.slices[1].ends_prompt);
  EXPECT_EQ(batch.slices[2].id, RequestId{4});
  EXPECT_EQ(batch.admitted, (std::vector<RequestId>{{4}}));
}

TEST(AdmitUnit, ABudgetThatCutsAPromptBeforeItsLimitEndsThePrefill) {
  std::vector<RunningView> running = {Running(1, Phase::kPrefill, 1000, 0),
                                      Running(2, Phase::kPrefill, 30, 0)};
  running[0].compute_until = 512;
  const Batch batch = Admit({}, running, {.step_tokens = 300, .max_running = 8, .unreserved_blocks = 0});
  ASSERT_EQ(batch.slices.size(), 1u);
  EXPECT_EQ(batch.slices[0].tokens, 256u);
}

TEST(AdmitUnit, CutPromptIsNotOvertaken) {
  const std::vector<RunningView> running = {Running(1, Phase::kPrefill, 1000, 0),
                                            Running(2, Phase::kPrefill, 3, 0)};
  const std::vector<WaitingView> waiting = {Waiting(3, 2, 1)};
  const Batch batch =
      Admit(waiting, running, {.step_tokens = 100, .max_running = 4, .unreserved_blocks = 10});
  ASSERT_EQ(batch.slices.size(), 1u);
  EXPECT_EQ(batch.slices[0].tokens, 64u);
  EXPECT_TRUE(batch.admitted.empty());
}

TEST(AdmitUnit, MemoryAndSlotsBoundAdmissionInOrder) {
  const std::vector<WaitingView> waiting = {Waiting(1, 10, 6), Waiting(2, 10, 5), Waiting(3, 10, 1)};
  Batch batch = Admit(waiting, {}, {.step_tokens = 512, .max_running = 8, .unreserved_blocks = 10});
  EXPECT_EQ(batch.admitted, (std::vector<RequestId>{{1}}));  // 3 would fit, but 2 came first
  batch = Admit(waiting, {}, {.step_tokens = 512, .max_running = 2, .unreserved_blocks = 100});
  EXPECT_EQ(batch.admitted, (std::vector<RequestId>{{1}, {2}}));
}

TEST(AdmitUnit, TransfersNeedMemoryButNoTokens) {
  const std::vector<WaitingView> waiting = {Waiting(1, 2000, 4, true), Waiting(2, 2000, 4, true),
                                            Waiting(3, 2000, 4, true)};
  const Batch batch = Admit(waiting, {}, {.step_tokens = 128, .max_running = 8, .unreserved_blocks = 8});
  EXPECT_EQ(batch.admitted, (std::vector<RequestId>{{1}, {2}}));
  EXPECT_TRUE(batch.slices.empty());
}

TEST(AdmitSafety, BudgetWithoutRoomForATileIsOurBug) {
  EXPECT_DEATH(Admit({}, {}, {.step_tokens = 64, .max_running = 1, .unreserved_blocks = 1}), "step_tokens");
}

// Plays whole request lives against the policy and checks its promises at every step.
class Play {
 public:
  Play(uint64_t seed, Budget budget) : rng_(seed), budget_(budget), blocks_total_(budget.unreserved_blocks) {}

  void Run(uint32_t requests) {
    uint32_t submitted = 0;
    uint32_t steps = 0;
    while (submitted < requests || !waiting_.empty() || !running_.empty()) {
      if (submitted < requests && rng_.Below(2) == 0) Submit(++submitted);
      Step();
      ASSERT_LT(++steps, 200000u) << "the queue does not drain";
      if (testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(budget_.unreserved_blocks, blocks_total_);
  }

 private:
  struct Life {
    uint32_t output_left = 0;
    uint32_t blocks = 0;
  };

  void Submit(uint64_t id) {
    const auto prompt = static_cast<uint32_t>(1 + rng_.Below(rng_.Below(4) == 0 ? 2000 : 100));
    const auto blocks = static_cast<uint32_t>(1 + rng_.Below(blocks_total_));
    lives_[id] = {.output_left = static_cast<uint32_t>(rng_.Below(30)), .blocks = blocks};
    waiting_.push_back(Waiting(id, prompt, blocks, rng_.Below(5) == 0));
  }

  void Step() {
    const Batch batch = Admit(waiting_, running_, budget_);
    const bool first_prompt_waits = FirstPromptWaits(batch);
    ASSERT_FALSE(first_prompt_waits) << "the first prompt made no progress";
    ASSERT_LE(batch.tokens(), budget_.step_tokens);
    TakeAdmitted(batch);
    ASSERT_LE(running_.size(), budget_.max_running);
    for (const Slice& slice : batch.slices) Apply(slice);
    for (RunningView& request : running_) {  // a transfer lands now and then
      if (request.phase == Phase::kAwaitingKv && rng_.Below(3) == 0) {
        request.phase = rng_.Below(4) == 0 ? Phase::kPrefill : Phase::kDecode;
      }
    }
    Retire();
  }

  bool FirstPromptWaits(const Batch& batch) const {
    for (const RunningView& request : running_) {
      if (request.phase != Phase::kPrefill) continue;
      return std::none_of(batch.slices.begin(), batch.slices.end(),
                          [&](const Slice& slice) { return slice.id == request.id; });
    }
    return false;
  }

  void TakeAdmitted(const Batch& batch) {
    for (size_t i = 0; i < batch.admitted.size(); ++i) {
      ASSERT_EQ(batch.admitted[i], waiting_[i].id);  // a prefix: first come, first served
      ASSERT_LE(waiting_[i].reserve_blocks, budget_.unreserved_blocks);
      budget_.unreserved_blocks -= waiting_[i].reserve_blocks;
      running_.push_back(Running(waiting_[i].id.value,
                                 waiting_[i].awaits_kv ? Phase::kAwaitingKv : Phase::kPrefill,
                                 waiting_[i].prompt_tokens, 0));
    }
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(batch.admitted.size()));
  }

  void Apply(const Slice& slice) {
    const auto request = std::find_if(running_.begin(), running_.end(),
                                      [&](const RunningView& view) { return view.id == slice.id; });
    ASSERT_NE(request, running_.end());
    ASSERT_GE(slice.tokens, 1u);
    if (slice.decode) {
      ASSERT_EQ(request->phase, Phase::kDecode);
      ASSERT_EQ(slice.tokens, 1u);
      Life& life = lives_[slice.id.value];
      if (life.output_left > 0) --life.output_left;
      return;
    }
    ASSERT_EQ(request->phase, Phase::kPrefill);
    ASSERT_EQ(slice.first_token, request->prompt_done);
    request->prompt_done += slice.tokens;
    ASSERT_LE(request->prompt_done, request->prompt_tokens);
    ASSERT_EQ(slice.ends_prompt, request->prompt_done == request->prompt_tokens);
    ASSERT_TRUE(slice.ends_prompt || request->prompt_done % tensor::kTileTokens == 0);
    if (slice.ends_prompt) request->phase = Phase::kDecode;
  }

  void Retire() {
    for (size_t i = running_.size(); i-- > 0;) {
      const Life& life = lives_[running_[i].id.value];
      if (running_[i].phase != Phase::kDecode || life.output_left > 0) continue;
      budget_.unreserved_blocks += life.blocks;
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  base::Rng rng_;
  Budget budget_;
  uint32_t blocks_total_;
  std::vector<WaitingView> waiting_;
  std::vector<RunningView> running_;
  std::map<uint64_t, Life> lives_;
};

TEST(AdmitProperty, EveryRequestFinishesWithinBudget) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    const auto max_running = static_cast<uint32_t>(1 + seed % 7);
    Play play(seed, {.step_tokens = max_running + 64 + static_cast<uint32_t>(seed * 13),
                     .max_running = max_running,
                     .unreserved_blocks = 40});
    play.Run(120);
  }
}

}  // namespace
}  // namespace kvplane::sched
