#include "apps/cli/store_bench/store_race.h"

#include <cstring>
#include <utility>

#include "kvplane/base/clock.h"
#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"

namespace kvplane::cli {
namespace {

constexpr uint64_t kTenant = 0x6b76;
// A store that takes longer for one call of a benchmark is broken.
constexpr base::Duration kCallLimit = std::chrono::seconds(60);

base::TimePoint Limit() { return base::Clock::System().Now() + kCallLimit; }
double SecondsSince(base::TimePoint start) { return base::ToSeconds(base::Clock::System().Now() - start); }

std::vector<store::StoreKey> Chain(const StoreRaceOptions& options, uint64_t round) {
  std::vector<store::StoreKey> keys(options.objects);
  base::Rng rng(round + 1);
  for (store::StoreKey& key : keys) {
    key.tenant = kTenant;
    for (size_t at = 0; at < key.chain.size(); at += sizeof(uint64_t)) {
      base::StoreLe(&key.chain[at], rng.Next());
    }
  }
  return keys;
}

// Bytes that no compressor makes smaller: coded KV is like that.
std::vector<std::byte> Content(const StoreRaceOptions& options, uint64_t round, uint32_t number) {
  std::vector<std::byte> out(options.object_bytes);
  base::Rng rng(round * 1000 + number);
  size_t at = 0;
  for (; at + sizeof(uint64_t) <= out.size(); at += sizeof(uint64_t)) base::StoreLe(&out[at], rng.Next());
  for (; at < out.size(); ++at) out[at] = static_cast<std::byte>(rng.Next());
  return out;
}

// Where readers copy to: of a fixed size, written before the first measurement.
std::vector<std::byte>& Destination(size_t bytes) {
  static std::vector<std::byte> destination;
  if (destination.size() != bytes) destination.assign(bytes, std::byte{1});
  return destination;
}

base::Status ReadInto(store::Store& store, const store::ReadRequest& request, std::span<std::byte> to) {
  const auto read = std::move(store.Read(std::span(&request, 1), Limit())[0]);
  if (!read.ok()) return read.status();
  if (read->size() != to.size()) return base::Corrupt("{} bytes came for {}", read->size(), to.size());
  std::memcpy(to.data(), read->bytes().data(), to.size());
  return base::Status::Ok();
}

base::Status ReadWhole(store::Store& store, const store::StoreKey& key, std::span<std::byte> to,
                       StoreTimes& times) {
  const base::TimePoint start = base::Clock::System().Now();
  KVPLANE_RETURN_IF_ERROR(ReadInto(store, {.key = key}, to));
  times.read.push_back(SecondsSince(start));
  return base::Status::Ok();
}

base::Status ReadByLayers(store::Store& store, const store::StoreKey& key, uint32_t layers,
                          std::span<std::byte> to, StoreTimes& times) {
  const base::TimePoint start = base::Clock::System().Now();
  for (uint32_t layer = 0; layer < layers; ++layer) {
    const uint64_t begin = to.size() * layer / layers;
    const uint64_t end = to.size() * (layer + 1) / layers;
    KVPLANE_RETURN_IF_ERROR(
        ReadInto(store, {.key = key, .offset = begin, .bytes = end - begin}, to.subspan(begin, end - begin)));
    if (layer == 0) times.first_layer.push_back(SecondsSince(start));
  }
  times.layers.push_back(SecondsSince(start));
  return base::Status::Ok();
}

}  // namespace

base::Status RaceOnce(store::Store& store, const StoreRaceOptions& options, uint64_t round,
                      StoreTimes& times) {
  const auto keys = Chain(options, round);
  std::vector<std::byte>& destination = Destination(options.object_bytes);
  const std::span<std::byte> to = std::span(destination).first(options.object_bytes);
  for (uint32_t i = 0; i < options.objects; ++i) {
    store::Slice object = store::Slice::Own(Content(options, round, i));
    const base::TimePoint start = base::Clock::System().Now();
    KVPLANE_RETURN_IF_ERROR(store.Put(keys[i], {.prefix_bytes = 0, .quality = store::kLossless, .ttl = {}},
                                      std::move(object), {.durable = options.durable}, Limit()));
    times.put.push_back(SecondsSince(start));
  }
  const base::TimePoint start = base::Clock::System().Now();
  KVPLANE_ASSIGN_OR_RETURN(const auto found, store.Lookup(keys, 0, Limit()));
  times.lookup.push_back(SecondsSince(start));
  if (found.size() != keys.size()) {
    return base::Corrupt("{} of {} objects are there", found.size(), keys.size());
  }
  for (uint32_t i = 0; i < options.objects; ++i) {
    KVPLANE_RETURN_IF_ERROR(ReadWhole(store, keys[i], to, times));
    if (Content(options, round, i) != destination) return base::Corrupt("other bytes than were put");
  }
  for (const store::StoreKey& key : keys) {
    KVPLANE_RETURN_IF_ERROR(ReadByLayers(store, key, options.layers, to, times));
  }
  if (Content(options, round, options.objects - 1) != destination) {
    return base::Corrupt("other bytes than were put");
  }
  for (const store::StoreKey& key : keys) KVPLANE_RETURN_IF_ERROR(store.Erase(key, Limit()));
  return base::Status::Ok();
}

void CopyOnce(const StoreRaceOptions& options, uint64_t round, std::vector<double>& seconds) {
  std::vector<std::vector<std::byte>> objects;
  for (uint32_t i = 0; i < options.objects; ++i) objects.push_back(Content(options, round, i));
  std::vector<std::byte>& destination = Destination(options.object_bytes);
  for (const auto& object : objects) {
    const base::TimePoint start = base::Clock::System().Now();
    std::memcpy(destination.data(), object.data(), object.size());
    asm volatile("" : : "r"(destination.data()) : "memory");  // the copy is used
    seconds.push_back(SecondsSince(start));
  }
}

}  // namespace kvplane::cli
