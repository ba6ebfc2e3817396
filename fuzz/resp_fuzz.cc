// The replies of a Redis server against arbitrary bytes.
//
// First byte: how the bytes are cut on their way. The rest is a stream of replies; each is also read as a
// reply to CLUSTER SLOTS, as a redirection and as the header of a record. However the bytes are cut, the same
// replies come out, and none may hold more than was asked for.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kvplane/base/check.h"
#include "kvplane/store/record.h"
#include "kvplane/store/redis/redis_options.h"
#include "kvplane/store/redis/redis_slots.h"
#include "kvplane/store/redis/resp.h"
#include "kvplane/store/redis/testing/memory_stream.h"

namespace {

namespace base = kvplane::base;
namespace store = kvplane::store;

constexpr store::RespLimits kLimits = {.max_bulk_bytes = 4096, .max_elements = 4096};

// Elements of all arrays; checks the limits on the way.
size_t Elements(const store::RespValue& value, uint32_t depth) {
  KVPLANE_CHECK(depth <= store::kMaxRespDepth && value.bulk.size() <= kLimits.max_bulk_bytes);
  KVPLANE_CHECK(value.text.size() <= store::kMaxRespLineBytes);
  size_t total = value.array.size();
  for (const store::RespValue& element : value.array) total += Elements(element, depth + 1);
  return total;
}

bool Same(const store::RespValue& a, const store::RespValue& b) {
  if (a.kind != b.kind || a.integer != b.integer || a.view() != b.view()) return false;
  if (a.array.size() != b.array.size()) return false;
  for (size_t i = 0; i < a.array.size(); ++i) {
    if (!Same(a.array[i], b.array[i])) return false;
  }
  return true;
}

void Use(const store::RespValue& value) {
  KVPLANE_CHECK(Elements(value, 0) <= kLimits.max_elements);
  const store::RedisAddress asked = {"asked", 1};
  const auto map = store::ParseClusterSlots(value, asked);
  if (map.ok()) {
    KVPLANE_CHECK(map->nodes().size() <= store::kMaxRedisNodes);
    KVPLANE_CHECK(!map->complete() || map->Find(16'383) != nullptr);
  }
  if (const auto redirect = store::ParseRedirect(value.view(), asked)) {
    KVPLANE_CHECK(redirect->slot < store::kRedisSlots && redirect->to.port != 0 &&
                  !redirect->to.host.empty());
  }
  (void)store::DecodeRecordHeader(value.bulk.bytes(), {});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  store::MemoryStream whole(bytes);
  store::MemoryStream cut(bytes, size_t{1} + data[0] % 16);
  store::RespReader reader(whole);
  store::RespReader cut_reader(cut);
  while (true) {
    const auto reply = reader.Next(kLimits, base::kNoDeadline);
    const auto cut_reply = cut_reader.Next(kLimits, base::kNoDeadline);
    KVPLANE_CHECK(reply.ok() == cut_reply.ok());
    if (!reply.ok()) break;
    KVPLANE_CHECK(Same(*reply, *cut_reply));
    Use(*reply);
  }
  // The same bytes as an address, unless they name a file.
  if (bytes.find("password_file") == std::string_view::npos) (void)store::ParseRedisSpec(bytes);
  return 0;
}
