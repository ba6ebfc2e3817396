#include "apps/cli/commands/store_objects.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "apps/cli/exit_code.h"
#include "apps/cli/npy_file.h"
#include "apps/cli/seconds_flag.h"
#include "kvplane/codec/object.h"
#include "kvplane/store/create_store.h"
#include "kvplane/store/key_chain.h"
#include "kvplane/store/remote/remote_store.h"

namespace kvplane::cli {
namespace {

using json = nlohmann::ordered_json;

constexpr double kMaxTtlSeconds = 10 * 365.0 * 86'400;

struct Opened {
  store::StoreStack stack;
  base::TimePoint deadline;
};

base::Result<Opened> OpenStore(const StoreClientArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(const base::Duration timeout, SecondsFlag("--timeout-s", args.timeout_s));
  store::StoreAccess access;
  access.create = false;
  KVPLANE_ASSIGN_OR_RETURN(access.security, transport::ReadSecurityFiles(args.security));
  KVPLANE_ASSIGN_OR_RETURN(store::StoreStack stack, store::CreateStore(args.store, access));
  return Opened{std::move(stack), base::Clock::System().Now() + timeout};
}

std::string Hex(std::span<const std::byte> bytes) {
  std::string out;
  for (const std::byte b : bytes) out += fmt::format("{:02x}", std::to_integer<unsigned>(b));
  return out;
}

base::Result<store::StoreKey> KeyFromHex(const StoreClientArgs& args) {
  store::StoreKey key{.tenant = store::TenantId(args.tenant)};
  bool good = args.key.size() == 2 * key.chain.size();
  for (size_t i = 0; good && i < key.chain.size(); ++i) {
    uint8_t value = 0;
    const char* const digits = args.key.data() + 2 * i;
    good = std::from_chars(digits, digits + 2, value, 16).ptr == digits + 2;
    key.chain[i] = std::byte{value};
  }
  if (!good) return base::InvalidArgument("--key '{}': 64 hexadecimal digits are meant", args.key);
  return key;
}

// The key that the flags name; `otherwise` where they name none.
base::Result<store::StoreKey> KeyOf(const StoreClientArgs& args,
                                    const std::function<base::Result<store::StoreKey>()>& otherwise) {
  if (!args.key.empty() && !args.name.empty()) return base::InvalidArgument("--key or --name, not both");
  if (!args.key.empty()) return KeyFromHex(args);
  if (args.name.empty()) return otherwise();
  store::KeySpace space;
  space.tenant = args.tenant;
  KVPLANE_RETURN_IF_ERROR(space.Validate());
  return store::KeyFromForeign(space, std::as_bytes(std::span(args.name)));
}

// The chain that the object itself names, or one made from its bytes.
store::StoreKey KeyOfObject(const StoreClientArgs& args, const codec::ObjectReader& reader,
                            std::span<const std::byte> object) {
  store::KeySpace space;
  space.tenant = args.tenant;
  store::StoreKey key = store::KeyFromForeign(space, object);
  const auto& chain = reader.info().identity.token_chain;
  static_assert(std::tuple_size_v<std::remove_cvref_t<decltype(chain)>> == sizeof(key.chain));
  if (std::ranges::any_of(chain, [](std::byte b) { return b != std::byte{0}; })) {
    std::ranges::copy(chain, key.chain.begin());
  }
  return key;
}

base::Status Put(const StorePutArgs& args) {
  if (!(args.ttl_s >= 0 && args.ttl_s <= kMaxTtlSeconds)) {
    return base::InvalidArgument("--ttl-s {} is not in [0, {}]", args.ttl_s, kMaxTtlSeconds);
  }
  KVPLANE_ASSIGN_OR_RETURN(std::vector<std::byte> bytes, ReadFileBytes(args.input));
  const base::Result<codec::ObjectReader> reader = codec::ObjectReader::Open(bytes);
  if (!reader.ok()) return reader.status().Annotate(args.input);
  KVPLANE_RETURN_IF_ERROR(reader->VerifyChecksums(bytes).Annotate(args.input));
  KVPLANE_ASSIGN_OR_RETURN(const store::StoreKey key,
                           KeyOf(args.client, [&]() -> base::Result<store::StoreKey> {
                             return KeyOfObject(args.client, *reader, bytes);
                           }));
  KVPLANE_ASSIGN_OR_RETURN(const Opened opened, OpenStore(args.client));
  store::EntryMeta meta;
  meta.prefix_bytes = static_cast<uint32_t>(reader->prefix_bytes());
  meta.quality = reader->info().strategy.lossy() ? static_cast<uint16_t>(std::min(args.quality, 999u))
                                                 : store::kLossless;
  meta.ttl = base::FromSeconds(args.ttl_s);
  const size_t size = bytes.size();
  store::Store& store = *opened.stack.store;
  KVPLANE_RETURN_IF_ERROR(
      store.Put(key, meta, store::Slice::Own(std::move(bytes)), {.durable = args.durable}, opened.deadline));
  if (opened.stack.tiered != nullptr) KVPLANE_RETURN_IF_ERROR(store.Flush(opened.deadline));
  fmt::print("{}\n", json{{"key", Hex(key.chain)}, {"bytes", size}}.dump());
  return base::Status::Ok();
}

base::Status Get(const StoreGetArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(const store::StoreKey key,
                           KeyOf(args.client, []() -> base::Result<store::StoreKey> {
                             return base::InvalidArgument("which object? --key or --name");
                           }));
  KVPLANE_ASSIGN_OR_RETURN(const Opened opened, OpenStore(args.client));
  store::Store& store = *opened.stack.store;
  // A stack learns from the look-up which tier to read.
  KVPLANE_ASSIGN_OR_RETURN(const std::vector<store::EntryInfo> found,
                           store.Lookup(std::span(&key, 1), 0, opened.deadline));
  if (found.empty()) return base::NotFound("{} does not have this object", store.name());
  const store::ReadRequest request{.key = key, .offset = 0, .bytes = 0};
  KVPLANE_ASSIGN_OR_RETURN(const store::Slice object,
                           std::move(store.Read(std::span(&request, 1), opened.deadline)[0]));
  const base::Result<codec::ObjectReader> reader = codec::ObjectReader::Open(object.bytes());
  base::Status status = reader.status();
  if (status.ok()) status = reader->VerifyChecksums(object.bytes());
  if (status.code() == base::StatusCode::kCorrupt) store.Quarantine(key);
  KVPLANE_RETURN_IF_ERROR(status.Annotate("what the store gave"));
  KVPLANE_RETURN_IF_ERROR(WriteFileBytes(args.output, object.bytes()));
  fmt::print(stderr, "{}: {} bytes\n", args.output, object.size());
  return base::Status::Ok();
}

base::Status Erase(const StoreClientArgs& args) {
  const bool one = !args.key.empty() || !args.name.empty();
  if (!one && args.tenant.empty()) {
    return base::InvalidArgument("erase what? --key or --name for one object, --tenant for all of a tenant");
  }
  KVPLANE_ASSIGN_OR_RETURN(const Opened opened, OpenStore(args));
  store::Store& store = *opened.stack.store;
  uint64_t erased = 0;
  if (one) {
    KVPLANE_ASSIGN_OR_RETURN(const store::StoreKey key, KeyOf(args, [] {
                               return base::Result<store::StoreKey>(base::Internal("no key"));
                             }));
    KVPLANE_ASSIGN_OR_RETURN(const std::vector<store::EntryInfo> found,
                             store.Lookup(std::span(&key, 1), 0, opened.deadline));
    KVPLANE_RETURN_IF_ERROR(store.Erase(key, opened.deadline));
    erased = found.size();
  } else {
    KVPLANE_ASSIGN_OR_RETURN(erased, store.EraseTenant(store::TenantId(args.tenant), opened.deadline));
  }
  KVPLANE_RETURN_IF_ERROR(store.Flush(opened.deadline));
  fmt::print("{}\n", json{{"erased", erased}}.dump());
  return base::Status::Ok();
}

json Describe(const store::TierCounters& tier) {
  const store::StoreStats& stats = tier.stats;
  return {{"tier", std::string(store::Name(tier.kind))},
          {"name", tier.name},
          {"entries", stats.entries},
          {"bytes", stats.bytes},
          {"capacity_bytes", stats.capacity_bytes},
          {"lookups", stats.lookups},
          {"lookup_keys", stats.lookup_keys},
          {"hits", stats.hits},
          {"reads", stats.reads},
          {"read_bytes", stats.read_bytes},
          {"misses", stats.misses},
          {"puts", stats.puts},
          {"put_bytes", stats.put_bytes},
          {"puts_refused", stats.puts_refused},
          {"evictions", stats.evictions},
          {"expirations", stats.expirations},
          {"corrupt", stats.corrupt},
          {"errors", stats.errors}};
}

base::Status Stats(const StoreClientArgs& args) {
  KVPLANE_ASSIGN_OR_RETURN(const Opened opened, OpenStore(args));
  std::vector<store::TierCounters> tiers;
  if (auto* remote = dynamic_cast<store::RemoteStore*>(opened.stack.store.get()); remote != nullptr) {
    KVPLANE_ASSIGN_OR_RETURN(tiers, remote->Counters(opened.deadline));
  } else {
    const store::Store& store = *opened.stack.store;
    tiers.push_back({store.kind(), store.name(), store.stats()});
  }
  json described = {{"store", Describe(tiers[0])}, {"tiers", json::array()}};
  for (size_t i = 1; i < tiers.size(); ++i) described["tiers"].push_back(Describe(tiers[i]));
  fmt::print("{}\n", described.dump(1));
  return base::Status::Ok();
}

int Report(const base::Status& status) {
  if (!status.ok()) fmt::print(stderr, "kvplane store: {}\n", status.ToString());
  return ExitCodeFor(status.code());
}

}  // namespace

int CmdStorePut(const StorePutArgs& args) { return Report(Put(args)); }
int CmdStoreGet(const StoreGetArgs& args) { return Report(Get(args)); }
int CmdStoreErase(const StoreClientArgs& args) { return Report(Erase(args)); }
int CmdStoreStats(const StoreClientArgs& args) { return Report(Stats(args)); }

}  // namespace kvplane::cli
