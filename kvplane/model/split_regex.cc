#include "kvplane/model/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <new>

#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

// The longest pattern in use has about 600 bytes.
constexpr size_t kMaxPatternBytes = size_t{64} << 10;
// Steps of one match. Real patterns need one step per character of a word; a run of 16 MiB is the worst.
constexpr uint32_t kMatchLimit = 50'000'000;
constexpr uint32_t kHeapLimitKib = 512U << 10;

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

base::Result<std::string> TranslatePattern(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out += "\\p{White_Space}";
      } else if (escaped == 'S') {
        out += "\\P{White_Space}";
      } else {
        out += {c, escaped};
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    if (in_class && pattern.substr(i).starts_with("&&")) {
      return base::Unimplemented("class intersection '&&' in pattern '{}'", pattern);
    }
    out += c;
  }
  return out;
}

}  // namespace

struct SplitRegex::Impl {
  pcre2_code* code = nullptr;
  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { pcre2_code_free(code); }
};

struct SplitRegex::MatchState::Impl {
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
};

SplitRegex::MatchState::MatchState() : impl_(std::make_unique<Impl>()) {
  impl_->data = pcre2_match_data_create(1, nullptr);
  impl_->context = pcre2_match_context_create(nullptr);
  if (impl_->data == nullptr || impl_->context == nullptr) throw std::bad_alloc();
  pcre2_set_match_limit(impl_->context, kMatchLimit);
  pcre2_set_heap_limit(impl_->context, kHeapLimitKib);
}

SplitRegex::MatchState::~MatchState() = default;

SplitRegex::SplitRegex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SplitRegex::SplitRegex(SplitRegex&&) noexcept = default;
SplitRegex& SplitRegex::operator=(SplitRegex&&) noexcept = default;
SplitRegex::~SplitRegex() = default;

base::Result<SplitRegex> SplitRegex::Compile(std::string_view pattern, uint32_t flags) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto impl = std::make_unique<Impl>();
  impl->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), flags, &error,
                             &offset, nullptr);
  if (impl->code == nullptr) {
    return base::Corrupt("pattern '{}': {} at offset {}", pattern, ErrorText(error), offset);
  }
  // Without JIT (a platform that lacks it) the interpreter gives the same matches, slower.
  (void)pcre2_jit_compile(impl->code, PCRE2_JIT_COMPLETE);
  return SplitRegex(std::move(impl));
}

base::Result<SplitRegex> SplitRegex::CreateRegex(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return base::ResourceExhausted("a pattern of {} bytes, the limit is {}", pattern.size(),
                                   kMaxPatternBytes);
  }
  if (FindInvalidUtf8(pattern)) return base::Corrupt("a pattern is not UTF-8");
  KVPLANE_ASSIGN_OR_RETURN(const std::string translated, TranslatePattern(pattern));
  // \C would match half a character.
  return Compile(translated, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
}

base::Result<SplitRegex> SplitRegex::CreateLiteral(std::string_view text) {
  if (text.empty()) return base::Corrupt("an empty split string");
  if (text.size() > kMaxPatternBytes)
    return base::ResourceExhausted("a split string of {} bytes", text.size());
  if (FindInvalidUtf8(text)) return base::Corrupt("a split string is not UTF-8");
  return Compile(text, PCRE2_UTF | PCRE2_LITERAL);
}

base::Status SplitRegex::Find(std::string_view text, size_t offset, MatchState* state, bool* found,
                              ByteRange* match) const {
  *found = false;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  // NOTEMPTY would only skip the empty alternative; reference engines see the empty match and step on.
  while (offset < text.size()) {
    uint32_t flags = PCRE2_NO_UTF_CHECK;
    const auto run = [&] {
      return pcre2_match(impl_->code, subject, text.size(), offset, flags, state->impl_->data,
                         state->impl_->context);
    };
    int code = run();
    if (code == PCRE2_ERROR_JIT_STACKLIMIT) {  // deep backtracking: the interpreter uses the heap instead
      flags |= PCRE2_NO_JIT;
      code = run();
    }
    if (code == PCRE2_ERROR_NOMATCH) return base::Status::Ok();
    if (code < 0) {
      return base::ResourceExhausted("pre-tokenizer pattern gave up at byte {}: {}", offset, ErrorText(code));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(state->impl_->data);
    if (bounds[0] < bounds[1]) {
      *found = true;
      *match = {bounds[0], bounds[1]};
      return base::Status::Ok();
    }
    if (bounds[0] >= text.size() || bounds[0] > bounds[1]) return base::Status::Ok();
    offset = bounds[0] + NextUtf8(text, bounds[0]).length;
  }
  return base::Status::Ok();
}

}  // namespace kvplane::model
