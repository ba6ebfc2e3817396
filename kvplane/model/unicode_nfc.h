// Normalization Form C (Unicode Standard Annex 15), which Qwen's tokenizers ask for.
//
// Text below U+0300 is in NFC already and passes after one scan.
//
// Thread safety: pure functions over constant tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace kvplane::model {

// `text` is valid UTF-8.
std::string ToNfc(std::string text);

// The tables behind it (unicode_nfc_tables.cc), sorted by code point.
struct Decomposition {
  uint32_t composed;
  uint32_t first;
  uint32_t second;  // 0: a singleton
  bool composes;    // NFC puts first + second together again
};
struct CombiningRange {
  uint32_t first;
  uint32_t last;
  uint8_t combining_class;
};
extern const Decomposition kDecompositions[];
extern const size_t kDecompositionsCount;
extern const CombiningRange kCombiningRanges[];
extern const size_t kCombiningRangesCount;

}  // namespace kvplane::model
