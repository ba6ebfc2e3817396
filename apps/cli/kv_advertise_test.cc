#include "apps/cli/kv_advertise.h"

#include <gtest/gtest.h>

#include <utility>

namespace kvplane::cli {
namespace {

using Told = std::pair<std::string, int>;

Told Tell(std::string_view listen, std::string_view advertise, std::string_view bound) {
  const auto told = AdvertisedKv(listen, advertise, bound);
  return told.ok() ? Told{told->host, told->port} : Told{told.status().message(), -1};
}

TEST(KvAdvertiseUnit, TellsWhatOthersCanConnectTo) {
  EXPECT_EQ(Tell("tcp://10.0.0.5:7000", "", "tcp://10.0.0.5:7000"), Told("10.0.0.5", 7000));
  EXPECT_EQ(Tell("tcp://127.0.0.1:0", "", "tcp://127.0.0.1:41000"), Told("127.0.0.1", 41000));
  EXPECT_EQ(Tell("tcp://prefill-1:7000", "", "tcp://10.0.0.5:7000"), Told("prefill-1", 7000)) << "not its IP";
  EXPECT_EQ(Tell("tcp://0.0.0.0:7000", "", "tcp://0.0.0.0:7000"), Told("", 7000));
  EXPECT_EQ(Tell("tcp://[::]:0", "", "tcp://[::]:41000"), Told("", 41000));
  EXPECT_EQ(Tell("tcp://0.0.0.0:0", "prefill-1", "tcp://0.0.0.0:41000"), Told("prefill-1", 41000));
  EXPECT_EQ(Tell("tcp://0.0.0.0:7000", "edge:17000", "tcp://0.0.0.0:7000"), Told("edge", 17000));
  EXPECT_EQ(Tell("tcp://[::]:7000", "[fe80::1]", "tcp://[::]:7000"), Told("fe80::1", 7000));
  EXPECT_EQ(Tell("tcp://[::]:7000", "[fe80::1]:1", "tcp://[::]:7000"), Told("fe80::1", 1));
}

TEST(KvAdvertiseSafety, RefusesWhatNobodyCanConnectTo) {
  for (const std::string_view text : {"", ":7000", "0.0.0.0", "[::]:7000", "::1", "a:b", "a:70000", "a b",
                                      "a/b", "[]", "tcp://a:1", "user@host"}) {
    EXPECT_EQ(ParseKvAdvertise(text).status().code(), base::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace kvplane::cli
