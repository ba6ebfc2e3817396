// Texts that name places and amounts: endpoints, Redis stores, transports, sizes and rates. What is accepted
// can be written and read again; what is refused is refused with kInvalidArgument.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "kvplane/base/check.h"
#include "kvplane/base/units.h"
#include "kvplane/store/redis/redis_options.h"
#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/endpoint.h"

namespace {

namespace base = kvplane::base;
namespace store = kvplane::store;
namespace transport = kvplane::transport;

void RequireInvalid(const base::Status& status) {
  KVPLANE_CHECK(status.code() == base::StatusCode::kInvalidArgument);
  KVPLANE_CHECK(!status.message().empty());
}

void Endpoints(std::string_view text) {
  const auto tcp = transport::ParseTcpEndpoint(text);
  const auto any = transport::ParseHostEndpoint(text);
  if (tcp.ok()) {
    KVPLANE_CHECK(any.ok() && any->host == tcp->host && any->port == tcp->port);
    KVPLANE_CHECK(!tcp->host.empty());
    const auto again =
        transport::ParseTcpEndpoint("tcp://" + transport::FormatHostPort(tcp->host, tcp->port));
    KVPLANE_CHECK(again.ok() && again->host == tcp->host && again->port == tcp->port);
    KVPLANE_CHECK(!transport::IsLoopbackHost(tcp->host) || !transport::IsWildcardHost(tcp->host));
  } else {
    RequireInvalid(tcp.status());
  }
  if (!any.ok()) RequireInvalid(any.status());
  (void)transport::ParseInprocEndpoint(text);
  (void)transport::IsLoopbackHost(text);
  (void)transport::IsWildcardHost(text);
}

void Numbers(std::string_view text) {
  const auto bytes = base::ParseBytes(text);
  if (!bytes.ok()) RequireInvalid(bytes.status());
  const auto rate = base::ParseBitsPerSecond(text);
  if (!rate.ok()) RequireInvalid(rate.status());
}

// Texts that name files are left out: what they name would be read.
void Stores(std::string_view text) {
  if (text.find("_file") != std::string_view::npos) return;
  const auto redis = store::ParseRedisSpec(text);
  if (redis.ok()) {
    KVPLANE_CHECK(!redis->seeds.empty() && redis->seeds.size() <= store::kMaxRedisSeeds);
    KVPLANE_CHECK(store::ValidateRedisOptions(*redis).ok());
  } else {
    RequireInvalid(redis.status());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Endpoints(text);
  Numbers(text);
  Stores(text);
  const auto made = transport::CreateTransport(text);
  if (!made.ok() && made.status().code() != base::StatusCode::kUnimplemented) RequireInvalid(made.status());
  return 0;
}
