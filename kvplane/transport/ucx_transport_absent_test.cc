#include <gtest/gtest.h>

#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/ucx_transport.h"

namespace kvplane::transport {
namespace {

TEST(UcxAbsentUnit, SaysHowToBuildIt) {
  EXPECT_FALSE(UcxIsBuilt());
  const base::Status status = CreateTransport("ucx").status();
  EXPECT_EQ(status.code(), base::StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("-DKVPLANE_UCX=ON"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace kvplane::transport
