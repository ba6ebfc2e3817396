#include "kvplane/kernel/isa.h"

#include <gtest/gtest.h>

#include "kvplane/kernel/testing/scoped_isa.h"

namespace kvplane::kernel {
namespace {

TEST(IsaUnit, NamesRoundTrip) {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) EXPECT_EQ(*ParseIsa(Name(isa)), isa);
  EXPECT_FALSE(ParseIsa("sse9").ok());
}

TEST(IsaUnit, ActiveIsAvailable) {
  EXPECT_EQ(AvailableIsas().front(), Isa::kScalar);
  EXPECT_EQ(AvailableIsas().back(), DetectedIsa());
  EXPECT_LE(ActiveIsa(), DetectedIsa());
}

TEST(IsaUnit, ScopesNestAndEnd) {
  const Isa before = ActiveIsa();
  {
    const testing::ScopedIsa outer(DetectedIsa());
    EXPECT_EQ(ActiveIsa(), DetectedIsa());
    {
      const testing::ScopedIsa inner(Isa::kScalar);
      EXPECT_EQ(ActiveIsa(), Isa::kScalar);
    }
    EXPECT_EQ(ActiveIsa(), DetectedIsa());
  }
  EXPECT_EQ(ActiveIsa(), before);
}

}  // namespace
}  // namespace kvplane::kernel
