#include "kvplane/model/unicode_nfc.h"

#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

// Hangul syllables are composed by arithmetic (The Unicode Standard 15, section 3.12).
constexpr char32_t kSBase = 0xAC00, kLBase = 0x1100, kVBase = 0x1161, kTBase = 0x11A7;
constexpr char32_t kLCount = 19, kVCount = 21, kTCount = 28, kSCount = kLCount * kVCount * kTCount;

constexpr char32_t kFirstRelevant =
    0x300;  // everything below is a starter that composes with nothing before it

std::span<const Decomposition> Decompositions() { return {kDecompositions, kDecompositionsCount}; }

uint8_t CombiningClass(char32_t c) {
  if (c < kFirstRelevant) return 0;
  const std::span<const CombiningRange> ranges(kCombiningRanges, kCombiningRangesCount);
  const auto range =
      std::partition_point(ranges.begin(), ranges.end(), [c](const auto& r) { return r.last < c; });
  return range != ranges.end() && range->first <= c ? range->combining_class : uint8_t{0};
}

void AppendDecomposed(char32_t c, std::vector<char32_t>* out) {
  if (c >= kSBase && c < kSBase + kSCount) {
    const char32_t index = c - kSBase;
    out->push_back(kLBase + index / (kVCount * kTCount));
    out->push_back(kVBase + index / kTCount % kVCount);
    if (index % kTCount != 0) out->push_back(kTBase + index % kTCount);
    return;
  }
  const auto table = Decompositions();
  const auto entry =
      std::partition_point(table.begin(), table.end(), [c](const auto& row) { return row.composed < c; });
  if (entry == table.end() || entry->composed != c) {
    out->push_back(c);
    return;
  }
  AppendDecomposed(entry->first, out);  // at most four levels deep in the data
  if (entry->second != 0) AppendDecomposed(entry->second, out);
}

// Row numbers of the composing pairs, sorted by (first, second).
const std::vector<uint16_t>& CompositionIndex() {
  static const auto* const index = [] {
    auto* rows = new std::vector<uint16_t>;
    const auto table = Decompositions();
    for (size_t i = 0; i < table.size(); ++i) {
      if (table[i].composes) rows->push_back(static_cast<uint16_t>(i));
    }
    std::sort(rows->begin(), rows->end(), [table](uint16_t a, uint16_t b) {
      return std::pair(table[a].first, table[a].second) < std::pair(table[b].first, table[b].second);
    });
    return rows;
  }();
  return *index;
}

std::optional<char32_t> Compose(char32_t first, char32_t second) {
  if (first >= kLBase && first < kLBase + kLCount && second >= kVBase && second < kVBase + kVCount) {
    return kSBase + ((first - kLBase) * kVCount + (second - kVBase)) * kTCount;
  }
  if (first >= kSBase && first < kSBase + kSCount && (first - kSBase) % kTCount == 0 && second > kTBase &&
      second < kTBase + kTCount) {
    return first + (second - kTBase);
  }
  const auto table = Decompositions();
  const std::vector<uint16_t>& index = CompositionIndex();
  const std::pair<uint32_t, uint32_t> wanted(first, second);
  const auto row = std::partition_point(index.begin(), index.end(), [&](uint16_t i) {
    return std::pair(table[i].first, table[i].second) < wanted;
  });
  if (row == index.end() || std::pair(table[*row].first, table[*row].second) != wanted) return std::nullopt;
  return table[*row].composed;
}

// Runs of marks, ordered by class and otherwise left in their order. Sorted as packed keys (class 8 bits,
// position 35, character 21): std::stable_sort of libstdc++ 12 does not compile without warnings on clang 19.
void SortCombiningMarks(std::vector<char32_t>* text) {
  std::vector<uint64_t> keys;
  for (size_t i = 0; i < text->size();) {
    keys.clear();
    for (size_t at = i; at < text->size(); ++at) {
      const uint8_t combining_class = CombiningClass((*text)[at]);
      if (combining_class == 0) break;
      keys.push_back(uint64_t{combining_class} << 56 | uint64_t{at - i} << 21 | (*text)[at]);
    }
    std::sort(keys.begin(), keys.end());
    for (const uint64_t key : keys) (*text)[i++] = static_cast<char32_t>(key & 0x1FFFFF);
    if (keys.empty()) ++i;
  }
}

void ComposeInPlace(std::vector<char32_t>* text) {
  std::vector<char32_t>& chars = *text;
  size_t kept = 0;
  std::optional<size_t> starter;
  int last_class = -1;  // of the character kept last behind the starter; -1: none
  for (const char32_t c : chars) {
    const int combining_class = CombiningClass(c);
    // Blocked if something of the same or a higher class, or another starter, stands between.
    if (starter && last_class < combining_class) {
      if (const auto composed = Compose(chars[*starter], c)) {
        chars[*starter] = *composed;
        continue;
      }
    }
    if (combining_class == 0) {
      starter = kept;
      last_class = -1;
    } else {
      last_class = combining_class;
    }
    chars[kept++] = c;
  }
  chars.resize(kept);
}

}  // namespace

std::string ToNfc(std::string text) {
  // Lead bytes below 0xCC write code points below U+0300.
  const bool relevant =
      std::any_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) >= 0xCC; });
  if (!relevant) return text;
  std::vector<char32_t> chars;
  chars.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = NextUtf8(text, i);
    AppendDecomposed(step.code_point, &chars);
    i += step.length;
  }
  SortCombiningMarks(&chars);
  ComposeInPlace(&chars);
  std::string out;
  out.reserve(text.size());
  for (const char32_t c : chars) AppendUtf8(c, &out);
  return out;
}

}  // namespace kvplane::model
