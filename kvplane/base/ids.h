// Strong integer ids: a BlockId cannot be passed where a LayerId is meant.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace kvplane::base {

template <typename Tag, typename Rep>
struct Id {
  Rep value{};
  constexpr auto operator<=>(const Id&) const = default;
};

using RequestId = Id<struct RequestTag, uint64_t>;
using BlockId = Id<struct BlockTag, uint32_t>;  // a physical layer-block in one tier's pool

}  // namespace kvplane::base

template <typename Tag, typename Rep>
struct std::hash<kvplane::base::Id<Tag, Rep>> {
  size_t operator()(const kvplane::base::Id<Tag, Rep>& id) const noexcept {
    return std::hash<Rep>{}(id.value);
  }
};
