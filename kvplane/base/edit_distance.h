// Edit distance, for "did you mean": how far a mistyped name is from a known one.
#pragma once

#include <cstddef>
#include <string_view>

namespace kvplane::base {

// Levenshtein distance: insertions, deletions and replacements of single bytes that turn `a` into `b`.
// O(|a| |b|) time, O(|b|) memory: bound what comes from outside before asking.
size_t EditDistance(std::string_view a, std::string_view b);

}  // namespace kvplane::base
