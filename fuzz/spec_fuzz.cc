// Texts that name things: endpoints, Redis stores, transports, sizes and rates, and strategies, as people
// write them and as OPEN frames and objects carry them. What is accepted can be written and read again; what
// is refused is refused with kInvalidArgument (a side on the wire: kCorrupt).
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "kvplane/base/check.h"
#include "kvplane/base/units.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/codec/testing/synthetic_profile.h"
#include "kvplane/codec/tile_codec.h"
#include "kvplane/store/redis/redis_options.h"
#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/endpoint.h"

namespace {

namespace base = kvplane::base;
namespace codec = kvplane::codec;
namespace store = kvplane::store;
namespace tensor = kvplane::tensor;
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

// Of the one text of a strategy: short, read again it is the same strategy with the same id.
void RequireCanonical(const codec::Strategy& strategy) {
  for (const tensor::Side side : tensor::kSides) {
    const std::string text = strategy.side(side).ToString();
    KVPLANE_CHECK(text.size() <= codec::kMaxStrategyTextBytes);
    const auto same = codec::SideStrategy::ParseCanonical(text, side);
    KVPLANE_CHECK(same.ok() && *same == strategy.side(side));
  }
  const auto again = codec::Strategy::Parse(strategy.ToString());
  KVPLANE_CHECK(again.ok() && *again == strategy && again->id() == strategy.id());
}

void Strategies(std::string_view text) {
  const auto written = codec::Strategy::Parse(text);
  if (written.ok()) {
    RequireCanonical(*written);
  } else {
    RequireInvalid(written.status());
  }
  static const auto profile = codec::testing::SyntheticProfile();
  for (const tensor::Side side : tensor::kSides) {
    const auto canonical = codec::SideStrategy::ParseCanonical(text, side);
    KVPLANE_CHECK(!canonical.ok() || canonical->ToString() == text);
    const auto bound = codec::TileCodec::FromWire(std::as_bytes(std::span(text)), side, profile);
    if (canonical.ok()) {
      // With a profile that has everything, but it may be too small for a rank.
      KVPLANE_CHECK(bound.ok() || bound.status().code() == base::StatusCode::kFailedPrecondition);
    } else {
      KVPLANE_CHECK(bound.status().code() == base::StatusCode::kCorrupt);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Endpoints(text);
  Numbers(text);
  Stores(text);
  Strategies(text);
  const auto made = transport::CreateTransport(text);
  if (!made.ok() && made.status().code() != base::StatusCode::kUnimplemented) RequireInvalid(made.status());
  return 0;
}
