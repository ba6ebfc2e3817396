// Endpoint texts, who can reach a host, and names that become addresses in time or not at all.
#include "kvplane/transport/endpoint.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/transport/socket_address.h"

namespace kvplane::transport {
namespace {

using base::StatusCode;

constexpr base::Duration kPatience = std::chrono::seconds(60);

base::TimePoint After(base::Duration wait) { return base::Clock::System().Now() + wait; }

TEST(EndpointUnit, ParsesTcp) {
  EXPECT_EQ(ParseTcpEndpoint("tcp://127.0.0.1:7001")->host, "127.0.0.1");
  EXPECT_EQ(ParseTcpEndpoint("tcp://127.0.0.1:7001")->port, 7001);
  EXPECT_EQ(ParseTcpEndpoint("tcp://[::1]:0")->host, "::1");
  EXPECT_EQ(ParseTcpEndpoint("tcp://node-3.cluster:65535")->port, 65535);
  EXPECT_EQ(FormatHostPort("::1", 7), "[::1]:7");
  EXPECT_EQ(FormatHostPort("10.0.0.1", 7), "10.0.0.1:7");
}

TEST(EndpointSafety, RefusesMalformedText) {
  const std::string cases[] = {"",
                               "127.0.0.1:1",
                               "tcp://",
                               "tcp://:1",
                               "tcp://host",
                               "tcp://host:",
                               "tcp://host:65536",
                               "tcp://host:-1",
                               "tcp://host:1x",
                               "tcp://::1:80",
                               "tcp://[]:80",
                               "tcp://a b:80",
                               "tcp://host:80/path",
                               std::string("tcp://h\0st:80", 13),
                               "tcp://" + std::string(600, 'a') + ":80"};
  for (const std::string& text : cases) {
    EXPECT_EQ(ParseTcpEndpoint(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
}

TEST(EndpointUnit, ParsesEverySchemeOfHosts) {
  for (const std::string scheme : {"tcp", "tls", "ucx", "http", "https"}) {
    const auto endpoint = ParseHostEndpoint(scheme + "://[fe80::1]:7001");
    ASSERT_TRUE(endpoint.ok()) << scheme;
    EXPECT_EQ(endpoint->host, "fe80::1");
    EXPECT_EQ(endpoint->port, 7001);
    EXPECT_EQ(ParseHostEndpoint(scheme + "://node").status().code(), StatusCode::kInvalidArgument);
  }
  for (const std::string text : {"inproc://a", "file:///a", "node:7001", "", "TCP://node:7001"}) {
    EXPECT_EQ(ParseHostEndpoint(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(ParseUcxEndpoint("ucx://10.0.0.1:7")->host, "10.0.0.1");
  EXPECT_EQ(ParseUcxEndpoint("tcp://10.0.0.1:7").status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(ParseUcxEndpoint("ucx://node").status().message().find("ucx://HOST:PORT"), std::string::npos);
}

TEST(EndpointUnit, KnowsWhatOnlyThisHostCanReach) {
  for (const char* host :
       {"127.0.0.1", "127.9.9.9", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "localhost", "LocalHost"}) {
    EXPECT_TRUE(IsLoopbackHost(host)) << host;
  }
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "::2", "::ffff:10.0.0.1",
                           "127.0.0.1.example", "127.example", "localhost.example", "node", "", "1"}) {
    EXPECT_FALSE(IsLoopbackHost(host)) << host;
  }
}

TEST(EndpointUnit, ConnectionsOfOneHostHaveThisInCommon) {
  EXPECT_EQ(HostOfPeer("10.0.0.7:43210"), "10.0.0.7");
  EXPECT_EQ(HostOfPeer("[2001:db8:0:1::7]:43210"), "2001:db8:0:1::/64");
  EXPECT_EQ(HostOfPeer("[2001:db8:0:1:ffff::9]:1"), "2001:db8:0:1::/64");
  EXPECT_EQ(HostOfPeer("[2001:db8:0:2::7]:43210"), "2001:db8:0:2::/64");
  EXPECT_EQ(HostOfPeer("[::ffff:10.0.0.7]:43210"), "10.0.0.7");
  EXPECT_EQ(HostOfPeer("[fe80::1%eth0]:7"), "fe80::/64");
  EXPECT_EQ(HostOfPeer("[::1]:7"), "::/64");
  EXPECT_EQ(HostOfPeer("inproc"), "inproc");
  EXPECT_EQ(HostOfPeer("[nonsense]:1"), "[nonsense]");
  EXPECT_EQ(HostOfPeer("[%]:1"), "[%]");
  EXPECT_EQ(HostOfPeer(""), "");
}

TEST(ResolveUnit, LiteralsNeedNoResolverAndNoTime) {
  const NameLookup never = [](const TcpEndpoint&, ResolveFor) -> base::Result<std::vector<SocketAddress>> {
    ADD_FAILURE() << "a literal was looked up";
    return base::Internal("looked up");
  };
  const base::TimePoint past = base::Clock::System().Now();
  const auto v4 = Resolve({"10.1.2.3", 7001}, ResolveFor::kConnect, past, never);
  ASSERT_TRUE(v4.ok());
  ASSERT_EQ(v4->size(), 1u);
  EXPECT_EQ(v4->front().ToString(), "10.1.2.3:7001");
  const auto v6 = Resolve({"::1", 0}, ResolveFor::kListen, past, never);
  ASSERT_TRUE(v6.ok());
  EXPECT_EQ(v6->front().ToString(), "[::1]:0");
  EXPECT_EQ(Resolve({"node", 1}, ResolveFor::kConnect, past, never).status().code(),
            StatusCode::kDeadlineExceeded);
}

TEST(ResolveUnit, NamesAreLookedUp) {
  const auto local = Resolve({"localhost", 80}, ResolveFor::kConnect, After(kPatience));
  ASSERT_TRUE(local.ok()) << local.status().ToString();
  const std::string first = local->front().ToString();
  EXPECT_TRUE(first == "127.0.0.1:80" || first == "[::1]:80") << first;
  const NameLookup unknown = [](const TcpEndpoint& endpoint,
                                ResolveFor purpose) -> base::Result<std::vector<SocketAddress>> {
    EXPECT_EQ(purpose, ResolveFor::kListen);
    return base::Unavailable("no \"{}\" here", endpoint.host);
  };
  EXPECT_EQ(Resolve({"node", 1}, ResolveFor::kListen, After(kPatience), unknown).status(),
            base::Unavailable("no \"node\" here"));
}

// A resolver whose servers do not answer: callers leave in time, and do not pile up threads without end.
TEST(ResolveSafety, AResolverThatHangsHoldsNobody) {
  ASSERT_EQ(NameLookupsUnderWay(), 0);
  struct Gate {
    base::Mutex mutex;
    base::CondVar changed;
    bool open KVPLANE_GUARDED_BY(mutex) = false;
  };
  const auto gate = std::make_shared<Gate>();
  const NameLookup hangs = [gate](const TcpEndpoint&,
                                  ResolveFor) -> base::Result<std::vector<SocketAddress>> {
    base::MutexLock lock(gate->mutex);
    while (!gate->open) gate->changed.WaitUntil(gate->mutex, base::kNoDeadline);
    return std::vector<SocketAddress>(1);
  };
  EXPECT_EQ(
      Resolve({"node", 1}, ResolveFor::kConnect, After(std::chrono::milliseconds(20)), hangs).status().code(),
      StatusCode::kDeadlineExceeded);
  int more = 0;
  while (StartLookup({"node", 1}, ResolveFor::kConnect, hangs, [](auto) {}).ok()) ++more;
  EXPECT_GE(more, kMaxNameLookups - 1);  // the first one may have run out of time before it began
  EXPECT_LE(more, kMaxNameLookups);
  EXPECT_EQ(NameLookupsUnderWay(), kMaxNameLookups);
  EXPECT_EQ(Resolve({"node", 1}, ResolveFor::kConnect, After(kPatience), hangs).status().code(),
            StatusCode::kResourceExhausted);
  EXPECT_TRUE(Resolve({"127.0.0.1", 1}, ResolveFor::kConnect, After(kPatience), hangs).ok());
  {
    base::MutexLock lock(gate->mutex);
    gate->open = true;
    gate->changed.NotifyAll();
  }
  // The threads that were left alone end by themselves, and names are looked up again.
  const base::TimePoint limit = After(kPatience);
  while (NameLookupsUnderWay() > 0 && base::Clock::System().Now() < limit) std::this_thread::yield();
  EXPECT_EQ(NameLookupsUnderWay(), 0);
  EXPECT_TRUE(Resolve({"node", 1}, ResolveFor::kConnect, limit, hangs).ok());
}

}  // namespace
}  // namespace kvplane::transport
