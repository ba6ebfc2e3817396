// The grid of strategies: sub-spaces as data, each a template per side with axes of values.
//
// A template is a chain with `{axis}` in place of a value or of whole stages; an axis value may be empty, and
// a slot that becomes empty is left out with its "|". An axis that both sides name takes the same value on
// both; one that a single side names varies by itself. `snr_k` and `snr_v` are partners: SidePairs::kSame
// gives them the value of the same index. Points that break a legality rule are no part of the grid, so a
// sub-space may be written as a plain product.
//
// docs/strategies.md ("The grid") describes every sub-space.
//
// Thread safety: constant data.
#pragma once

#include <span>
#include <string_view>

namespace kvplane::profile {

struct GridAxis {
  std::string_view name;
  std::span<const std::string_view> values;
};

struct Subspace {
  std::string_view name;
  std::string_view meaning;
  std::string_view key;            // template
  std::string_view value;          // template
  std::span<const GridAxis> axes;  // the last one varies fastest
};

// A named choice of sub-spaces, in the order of enumeration.
struct Grid {
  std::string_view name;
  std::string_view meaning;
  std::span<const std::string_view> subspaces;
};

std::span<const Subspace> Subspaces();
std::span<const Grid> Grids();
const Subspace* FindSubspace(std::string_view name);  // null when unknown
const Grid* FindGrid(std::string_view name);          // null when unknown

}  // namespace kvplane::profile
