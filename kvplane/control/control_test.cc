#include <gtest/gtest.h>

#include "kvplane/control/plan.h"

namespace kvplane::control {
namespace {

codec::Strategy Parsed(std::string_view text) { return *codec::Strategy::Parse(text); }

TEST(PlanUnit, TheRequestComesBeforeTheNode) {
  const auto plan = Decide({.requested = Parsed("int4"), .node_default = Parsed("int8")});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->strategy, Parsed("int4"));
  EXPECT_EQ(plan->reason, "requested");
}

TEST(PlanUnit, TheNodeDefaultFillsIn) {
  const auto plan = Decide({.requested = {}, .node_default = Parsed("int8")});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->strategy, Parsed("int8"));
  EXPECT_EQ(plan->reason, "node default");
}

TEST(PlanUnit, ForbiddenLossIsRefusedWhenAskedFor) {
  const auto plan = Decide({.requested = Parsed("int8"), .node_default = {}, .accept_lossy = false});
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.status().code(), base::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Decide({.requested = Parsed("off"), .node_default = {}, .accept_lossy = false}).ok());
}

TEST(PlanUnit, ForbiddenLossOverridesTheNodeDefault) {
  const auto plan = Decide({.requested = {}, .node_default = Parsed("int8"), .accept_lossy = false});
  ASSERT_TRUE(plan.ok());
  EXPECT_FALSE(plan->strategy.lossy());
  EXPECT_NE(plan->reason.find("forbids lossy"), std::string::npos);
}

}  // namespace
}  // namespace kvplane::control
