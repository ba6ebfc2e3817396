#include "kvplane/store/create_store.h"

#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "kvplane/base/units.h"
#include "kvplane/store/disk_store.h"
#include "kvplane/store/dram_store.h"
#include "kvplane/store/redis/redis_options.h"
#include "kvplane/store/redis/redis_store.h"
#include "kvplane/store/remote/remote_store.h"
#include "kvplane/transport/create_transport.h"
#include "kvplane/transport/endpoint.h"

namespace kvplane::store {
namespace {

constexpr size_t kMaxTiers = 8;
constexpr double kMaxTtlSeconds = 10 * 365.0 * 86'400;

// "key=value&key=value" behind the '?'. Each value is taken once; what is left over at the end is unknown.
class Parameters {
 public:
  static base::Result<Parameters> Parse(std::string_view text) {
    Parameters parameters;
    while (!text.empty()) {
      const std::string_view item = text.substr(0, text.find('&'));
      text.remove_prefix(std::min(text.size(), item.size() + 1));
      const size_t equals = item.find('=');
      if (equals == std::string_view::npos || equals == 0) {
        return base::InvalidArgument("'{}' is not NAME=VALUE", item);
      }
      if (!parameters.values_.emplace(item.substr(0, equals), item.substr(equals + 1)).second) {
        return base::InvalidArgument("'{}' is given twice", item.substr(0, equals));
      }
    }
    return parameters;
  }

  std::optional<std::string> Take(const std::string& name) {
    const auto found = values_.find(name);
    if (found == values_.end()) return std::nullopt;
    std::optional<std::string> value = std::move(found->second);
    values_.erase(found);
    return value;
  }

  base::Status TakeBytes(const std::string& name, uint64_t& into) {
    const std::optional<std::string> value = Take(name);
    if (!value) return base::Status::Ok();
    base::Result<uint64_t> bytes = base::ParseBytes(*value);
    if (!bytes.ok()) return bytes.status().Annotate(name);
    into = *bytes;
    return base::Status::Ok();
  }

  base::Status TakeSeconds(const std::string& name, base::Duration& into) {
    const std::optional<std::string> value = Take(name);
    if (!value) return base::Status::Ok();
    double seconds = 0;
    const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), seconds);
    if (error != std::errc() || end != value->data() + value->size() || !(seconds >= 0) ||
        seconds > kMaxTtlSeconds) {
      return base::InvalidArgument("{}: '{}' is not a number of seconds from 0 to {:.0f}", name, *value,
                                   kMaxTtlSeconds);
    }
    into = base::FromSeconds(seconds);
    return base::Status::Ok();
  }

  base::Status ExpectNoMore(std::string_view known) const {
    if (values_.empty()) return base::Status::Ok();
    return base::InvalidArgument("'{}' is unknown; known are {}", values_.begin()->first, known);
  }

 private:
  std::map<std::string, std::string> values_;
};

struct SplitSpec {
  std::string place;
  Parameters parameters;
};

base::Result<SplitSpec> Split(std::string_view text) {
  const size_t question = text.find('?');
  SplitSpec split;
  split.place = text.substr(0, question);
  if (question != std::string_view::npos) {
    KVPLANE_ASSIGN_OR_RETURN(split.parameters, Parameters::Parse(text.substr(question + 1)));
  }
  return split;
}

base::Result<DramOptions> ParseMemory(std::string_view rest) {
  KVPLANE_ASSIGN_OR_RETURN(SplitSpec spec, Split(rest));
  if (!spec.place.empty()) return base::InvalidArgument("mem: has no place, but '{}'", spec.place);
  DramOptions options;
  KVPLANE_RETURN_IF_ERROR(spec.parameters.TakeBytes("bytes", options.capacity_bytes));
  KVPLANE_RETURN_IF_ERROR(spec.parameters.TakeSeconds("ttl_s", options.default_ttl));
  KVPLANE_RETURN_IF_ERROR(spec.parameters.TakeBytes("quota", options.tenant_quota_bytes));
  if (const auto policy = spec.parameters.Take("policy")) {
    if (*policy != "s3fifo" && *policy != "lru") {
      return base::InvalidArgument("policy: '{}' is neither s3fifo nor lru", *policy);
    }
    options.policy = *policy == "lru" ? PolicyKind::kLru : PolicyKind::kS3Fifo;
  }
  KVPLANE_RETURN_IF_ERROR(spec.parameters.ExpectNoMore("bytes, policy, ttl_s and quota"));
  return options;
}

base::Result<DiskStoreOptions> ParseFolder(std::string_view rest, const StoreAccess& access) {
  KVPLANE_ASSIGN_OR_RETURN(SplitSpec spec, Split(rest));
  if (spec.place.empty()) return base::InvalidArgument("dir: needs a path");
  DiskStoreOptions options;
  options.folder = spec.place;
  options.create = access.create;
  KVPLANE_RETURN_IF_ERROR(spec.parameters.TakeBytes("bytes", options.capacity_bytes));
  KVPLANE_RETURN_IF_ERROR(spec.parameters.TakeSeconds("ttl_s", options.ttl));
  KVPLANE_RETURN_IF_ERROR(spec.parameters.TakeBytes("scrub", options.scrub_bytes_per_s));
  KVPLANE_RETURN_IF_ERROR(spec.parameters.ExpectNoMore("bytes, ttl_s and scrub"));
  return options;
}

base::Result<RemoteStoreOptions> ParseRemote(std::string_view spec_text) {
  KVPLANE_ASSIGN_OR_RETURN(SplitSpec spec, Split(spec_text));
  KVPLANE_ASSIGN_OR_RETURN(const transport::TcpEndpoint endpoint, transport::ParseTcpEndpoint(spec.place));
  if (endpoint.port == 0) return base::InvalidArgument("a store server has a port");
  RemoteStoreOptions options;
  options.link.endpoint = spec.place;
  if (const auto connections = spec.parameters.Take("connections")) {
    const char* const end = connections->data() + connections->size();
    const auto parsed = std::from_chars(connections->data(), end, options.read_connections);
    if (parsed.ec != std::errc() || parsed.ptr != end) {
      return base::InvalidArgument("connections: '{}' is not a number", *connections);
    }
  }
  KVPLANE_RETURN_IF_ERROR(spec.parameters.ExpectNoMore("connections"));
  return options;
}

enum class SpecKind { kMemory, kFolder, kRemote, kRedis };

constexpr std::pair<std::string_view, SpecKind> kSchemes[] = {{"mem:", SpecKind::kMemory},
                                                              {"dir:", SpecKind::kFolder},
                                                              {"tcp://", SpecKind::kRemote},
                                                              {"redis://", SpecKind::kRedis},
                                                              {"rediss://", SpecKind::kRedis}};

base::Result<SpecKind> KindOf(std::string_view spec) {
  for (const auto& [scheme, kind] : kSchemes) {
    if (spec.starts_with(scheme)) return kind;
  }
  return base::InvalidArgument("known are mem:, dir:PATH, tcp://HOST:PORT, redis://HOST:PORT and rediss://");
}

base::Result<std::unique_ptr<Store>> CreateOne(SpecKind kind, std::string_view spec,
                                               const StoreAccess& access, StoreStack& stack) {
  switch (kind) {
    case SpecKind::kMemory: {
      KVPLANE_ASSIGN_OR_RETURN(const DramOptions options, ParseMemory(spec.substr(4)));
      KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<DramStore> dram, DramStore::Create(options));
      return std::unique_ptr<Store>(std::move(dram));
    }
    case SpecKind::kFolder: {
      KVPLANE_ASSIGN_OR_RETURN(const DiskStoreOptions options, ParseFolder(spec.substr(4), access));
      KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<DiskStore> disk, DiskStore::Open(options));
      return std::unique_ptr<Store>(std::move(disk));
    }
    case SpecKind::kRemote: {
      KVPLANE_ASSIGN_OR_RETURN(const RemoteStoreOptions options, ParseRemote(spec));
      if (stack.remote_transport == nullptr) {
        KVPLANE_ASSIGN_OR_RETURN(stack.remote_transport, transport::CreateTransport("tcp", access.security));
      }
      KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<RemoteStore> remote,
                               RemoteStore::Create(stack.remote_transport, options));
      return std::unique_ptr<Store>(std::move(remote));
    }
    case SpecKind::kRedis:
      break;
  }
  KVPLANE_ASSIGN_OR_RETURN(const RedisOptions options, ParseRedisSpec(spec));
  KVPLANE_ASSIGN_OR_RETURN(std::shared_ptr<transport::Transport> transport, CreateRedisTransport(options));
  stack.redis_transports.push_back(std::move(transport));
  return CreateRedisStore(options, *stack.redis_transports.back());
}

// Which text an error is about, without what may be a password in it.
std::string Shown(std::string_view spec) {
  const size_t scheme = spec.find("://");
  const size_t at = spec.rfind('@');
  if (scheme == std::string_view::npos || at == std::string_view::npos || at < scheme)
    return std::string(spec);
  return std::string(spec.substr(0, scheme + 3)) + "..." + std::string(spec.substr(at));
}

base::Status BuildTiers(std::span<const std::string> specs, const StoreAccess& access, StoreStack& stack) {
  TieredOptions options;
  base::Result<DramOptions> memory = ParseMemory(std::string_view(specs[0]).substr(4));
  if (!memory.ok()) return memory.status().Annotate(specs[0]);
  options.dram = *std::move(memory);
  bool has_folder = false;
  for (const std::string& spec : specs.subspan(1)) {
    const base::Result<SpecKind> kind = KindOf(spec);
    if (!kind.ok()) return kind.status().Annotate(Shown(spec));
    if (*kind == SpecKind::kMemory) return base::InvalidArgument("{}: memory is the first tier only", spec);
    base::Result<std::unique_ptr<Store>> store = CreateOne(*kind, spec, access, stack);
    if (!store.ok()) return store.status().Annotate(Shown(spec));
    SlowTier tier;
    tier.store = *std::move(store);
    // A durable put waits for the own disk; for another node only where there is none. Redis promises
    // nothing.
    tier.durable = *kind == SpecKind::kFolder || (*kind == SpecKind::kRemote && !has_folder);
    has_folder = has_folder || *kind == SpecKind::kFolder;
    options.tiers.push_back(std::move(tier));
  }
  KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<TieredStore> tiered, TieredStore::Create(std::move(options)));
  stack.tiered = tiered.get();
  stack.store = std::move(tiered);
  return base::Status::Ok();
}

}  // namespace

base::Result<StoreStack> CreateStore(std::span<const std::string> specs, const StoreAccess& access) {
  if (specs.empty() || specs.size() > kMaxTiers) {
    return base::InvalidArgument("{} stores named; 1 to {} are legal", specs.size(), kMaxTiers);
  }
  StoreStack stack;
  const base::Result<SpecKind> first = KindOf(specs[0]);
  if (!first.ok()) return first.status().Annotate(Shown(specs[0]));
  if (specs.size() == 1) {
    base::Result<std::unique_ptr<Store>> store = CreateOne(*first, specs[0], access, stack);
    if (!store.ok()) return store.status().Annotate(Shown(specs[0]));
    stack.store = *std::move(store);
    return stack;
  }
  if (*first != SpecKind::kMemory) {
    return base::InvalidArgument("{}: the first of several tiers must be memory (mem:)", Shown(specs[0]));
  }
  KVPLANE_RETURN_IF_ERROR(BuildTiers(specs, access, stack));
  return stack;
}

}  // namespace kvplane::store
