#include "kvplane/transfer/link_turn.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::transfer {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

base::TimePoint At(base::Duration since_start) { return base::TimePoint{} + seconds(1000) + since_start; }

constexpr double kPace = 1.0 / (1 << 20);    // 1 MiB/s, so that times come out exact
constexpr uint64_t kEighthSecond = 1 << 17;  // bytes, at that pace

TEST(LinkTurnUnit, EightTimesTheTimeAloneAtMostHalfThePatience) {
  const base::TimePoint deadline = At(seconds(30));
  EXPECT_EQ(TurnOf({At({}), deadline, 0}, kPace), At({}));
  EXPECT_EQ(TurnOf({At({}), deadline, kEighthSecond}, kPace), At(seconds(1)));
  EXPECT_EQ(TurnOf({At({}), deadline, kEighthSecond}, 2 * kPace), At(seconds(2)));
  EXPECT_EQ(TurnOf({At({}), deadline, 100'000'000}, kPace), At(seconds(15)));
  EXPECT_EQ(TurnOf({At(seconds(20)), deadline, 100'000'000}, kPace), At(seconds(25)));
  EXPECT_EQ(TurnOf({At({}), deadline, uint64_t{1} << 60}, 1.0), At(seconds(15)));
  EXPECT_EQ(TurnOf({At({}), deadline, kEighthSecond}, 0), At({}));
  // Asked for after it has failed, or with no deadline at all.
  EXPECT_EQ(TurnOf({At(seconds(31)), deadline, kEighthSecond}, kPace), At(seconds(31)));
  EXPECT_EQ(TurnOf({At({}), base::kNoDeadline, kEighthSecond}, kPace), At(seconds(1)));
}

// The case of two prompts on 20 Mbit/s: 1,782 tokens that take 2.9 s, and 85 of them half a second later.
TEST(LinkTurnUnit, AShortTransferOvertakesALongOneThatIsUnderWay) {
  const double pace = 8 / 20e6;
  const LinkDemand longer{At({}), At(seconds(30)), 7'300'000};
  EXPECT_LT(TurnOf({At(milliseconds(500)), At(milliseconds(30'500)), 348'000}, pace), TurnOf(longer, pace));
  EXPECT_LT(TurnOf({At(seconds(12)), At(seconds(42)), 348'000}, pace), TurnOf(longer, pace));
  // But not for ever: the long one has waited long enough.
  EXPECT_GT(TurnOf({At(seconds(15)), At(seconds(45)), 348'000}, pace), TurnOf(longer, pace));
}

TEST(LinkTurnUnit, PaceIsThatOfTheLastMegabytes) {
  Pace pace(1000, 0.001);
  EXPECT_DOUBLE_EQ(pace.seconds_per_byte(), 1e-6);
  pace.Add(1000, 0.003);
  EXPECT_NEAR(pace.seconds_per_byte(), 2e-6, 1e-9);
  for (int i = 0; i < 64; ++i) pace.Add(1 << 20, 0.5);
  EXPECT_NEAR(pace.seconds_per_byte(), 0.5 / (1 << 20), 1e-12);
  EXPECT_EQ(Pace(0, 0).seconds_per_byte(), 0);
}

TEST(LinkTurnProperty, NothingAskedForAfterATurnComesBeforeIt) {
  base::Rng rng(3);
  for (int i = 0; i < 20'000; ++i) {
    const auto random = [&](base::Duration asked) {
      return LinkDemand{At(asked), At(asked + milliseconds(1 + rng.Below(60'000))), rng.Below(1u << 28)};
    };
    const double pace = rng.Uniform() * 1e-6;
    const LinkDemand first = random(milliseconds(rng.Below(10'000)));
    const LinkDemand second = random(milliseconds(rng.Below(100'000)));
    const base::TimePoint turn = TurnOf(first, pace);
    ASSERT_GE(turn, first.asked);
    ASSERT_LE(turn, first.asked + (first.deadline - first.asked) / 2);
    if (second.asked > turn) {
      ASSERT_GT(TurnOf(second, pace), turn);
    }
    LinkDemand twice = first;
    twice.bytes *= 2;
    ASSERT_GE(TurnOf(twice, pace), turn);
  }
}

// One long transfer on a link that short ones alone fill to nine tenths, for ever: it ends in the time that
// its turn promises, and hardly any short one waits for it.
TEST(LinkTurnProperty, NobodyStarvesOnABusyLink) {
  struct Transfer {
    LinkDemand demand;
    base::TimePoint turn;
    double left_s = 0;
    base::TimePoint end;
  };
  base::Rng rng(4);
  constexpr base::Duration kTile = milliseconds(4);
  for (int run = 0; run < 5; ++run) {
    std::vector<Transfer> all;
    const auto add = [&](base::Duration asked, uint64_t bytes) {
      const LinkDemand demand{At(asked), At(asked + seconds(30)), bytes};
      all.push_back({demand, TurnOf(demand, kPace), static_cast<double>(bytes) * kPace, {}});
    };
    add({}, 1'000'000);  // a second alone
    for (base::Duration asked{}; asked < seconds(30); asked += milliseconds(1 + rng.Below(43)))
      add(asked, 20'000);
    base::TimePoint now = At({});
    size_t left = all.size();
    while (left > 0) {
      Transfer* next = nullptr;
      for (Transfer& one : all) {
        const bool waits = one.left_s > 0 && one.demand.asked <= now;
        if (waits && (next == nullptr || one.turn < next->turn)) next = &one;
      }
      now += kTile;
      if (next == nullptr) continue;
      next->left_s -= base::ToSeconds(kTile);
      if (next->left_s > 1e-9) continue;
      next->left_s = 0;
      next->end = now;
      --left;
    }
    // From its turn on only what had been asked for before it is ahead: what nine tenths of a link left over.
    EXPECT_LT(all[0].end, At(seconds(15)));
    size_t late = 0;
    for (size_t i = 1; i < all.size(); ++i) late += all[i].end > all[i].turn + milliseconds(1000) ? 1u : 0u;
    EXPECT_LT(late, all.size() / 10);
  }
}

}  // namespace
}  // namespace kvplane::transfer
