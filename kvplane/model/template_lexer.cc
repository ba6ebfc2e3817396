#include "kvplane/model/template_lexer.h"

#include <algorithm>

#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

using Kind = TemplateToken::Kind;

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsNameChar(char c) { return IsNameStart(c) || IsDigit(c); }

int HexDigit(char c) {
  if (IsDigit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// "\r\n" and "\r" are "\n" in a template; one line break at the end does not count.
std::string NormalizeLines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
    } else {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  base::Result<std::vector<TemplateToken>> Run();

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  base::Status LexText();
  base::Status LexComment();
  base::Status LexTag(Kind begin, Kind end, std::string_view closing);
  base::Status LexTagToken();
  base::Status LexString();
  base::Status AppendEscape(std::string* out);
  base::Status AppendHex(size_t digits, std::string* out);
  void LexNumber();
  bool CloseTag(std::string_view closing, bool trims_line);
  void Add(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void Step(size_t count);

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;  // the text that follows begins a line
  std::vector<TemplateToken> tokens_;
};

void Lexer::Step(size_t count) {
  const std::string_view skipped = Rest().substr(0, count);
  line_ += static_cast<int>(std::count(skipped.begin(), skipped.end(), '\n'));
  at_ += count;
}

base::Result<std::vector<TemplateToken>> Lexer::Run() {
  while (at_ < source_.size()) {
    KVPLANE_RETURN_IF_ERROR(LexText());
    if (at_ >= source_.size()) break;
    const char kind = source_[at_ + 1];
    if (kind == '#') {
      KVPLANE_RETURN_IF_ERROR(LexComment());
    } else if (kind == '%') {
      KVPLANE_RETURN_IF_ERROR(LexTag(Kind::kTagBegin, Kind::kTagEnd, "%}"));
    } else {
      KVPLANE_RETURN_IF_ERROR(LexTag(Kind::kOutputBegin, Kind::kOutputEnd, "}}"));
    }
  }
  Add(Kind::kEnd, "");
  return std::move(tokens_);
}

// Text up to the next tag, less what the tag's white space rules take from its end.
base::Status Lexer::LexText() {
  size_t end = at_;
  while (true) {
    end = source_.find('{', end);
    if (end == std::string::npos || end + 1 >= source_.size()) {
      end = source_.size();
      break;
    }
    const char next = source_[end + 1];
    if (next == '{' || next == '%' || next == '#') break;
    ++end;
  }
  std::string_view text = Rest().substr(0, end - at_);
  const size_t length = text.size();
  if (end < source_.size()) {
    const char sign = end + 2 < source_.size() ? source_[end + 2] : ' ';
    if (sign == '-') {
      while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
    } else if (sign != '+' && source_[end + 1] != '{') {
      const size_t line_break = text.rfind('\n');
      const size_t line_begin = line_break == std::string_view::npos ? 0 : line_break + 1;
      const std::string_view last_line = text.substr(line_begin);
      if ((line_begin > 0 || line_start_) && std::all_of(last_line.begin(), last_line.end(), IsSpace)) {
        text = text.substr(0, line_begin);
      }
    }
  }
  if (!text.empty()) Add(Kind::kText, std::string(text));
  Step(length);
  return base::Status::Ok();
}

base::Status Lexer::LexComment() {
  const size_t end = source_.find("#}", at_ + 2);
  if (end == std::string::npos) return base::InvalidArgument("line {}: comment without '#}}'", line_);
  const bool eats = end > at_ + 2 && source_[end - 1] == '-';
  const bool keeps = end > at_ + 2 && source_[end - 1] == '+';
  Step(end + 2 - at_);
  line_start_ = false;
  if (eats) {
    while (at_ < source_.size() && IsSpace(source_[at_])) {
      line_start_ = source_[at_] == '\n';
      Step(1);
    }
  } else if (!keeps && Rest().starts_with('\n')) {
    Step(1);
    line_start_ = true;
  }
  return base::Status::Ok();
}

// Consumes the end of the tag when it stands here.
bool Lexer::CloseTag(std::string_view closing, bool trims_line) {
  const std::string_view rest = Rest();
  const bool signed_end =
      (rest.starts_with('-') || rest.starts_with('+')) && rest.substr(1).starts_with(closing);
  if (!signed_end && !rest.starts_with(closing)) return false;
  const char sign = signed_end ? rest.front() : ' ';
  if (sign == '+' && !trims_line) return false;  // "}}" has no "+" form
  Step(closing.size() + (signed_end ? 1 : 0));
  line_start_ = false;
  if (sign == '-') {
    while (at_ < source_.size() && IsSpace(source_[at_])) {
      line_start_ = source_[at_] == '\n';
      Step(1);
    }
  } else if (trims_line && sign != '+' && Rest().starts_with('\n')) {
    Step(1);
    line_start_ = true;
  }
  return true;
}

base::Status Lexer::LexTag(Kind begin, Kind end, std::string_view closing) {
  const int first_line = line_;
  const bool is_statement = begin == Kind::kTagBegin;
  Add(begin, "");
  Step(2);
  if (Rest().starts_with('-') || (is_statement && Rest().starts_with('+'))) Step(1);
  int brackets = 0;
  while (at_ < source_.size()) {
    if (IsSpace(source_[at_])) {
      Step(1);
      continue;
    }
    if (brackets == 0) {
      Add(end, "");
      if (CloseTag(closing, is_statement)) return base::Status::Ok();
      tokens_.pop_back();
    }
    KVPLANE_RETURN_IF_ERROR(LexTagToken());
    const TemplateToken& token = tokens_.back();
    if (token.kind != Kind::kOperator) continue;
    if (token.text == "(" || token.text == "[" || token.text == "{") ++brackets;
    if (token.text == ")" || token.text == "]" || token.text == "}") --brackets;
    if (brackets < 0) return base::InvalidArgument("line {}: unexpected '{}'", line_, token.text);
  }
  return base::InvalidArgument("line {}: tag without '{}'", first_line, closing);
}

base::Status Lexer::LexTagToken() {
  const char c = source_[at_];
  if (IsNameStart(c)) {
    size_t end = at_;
    while (end < source_.size() && IsNameChar(source_[end])) ++end;
    Add(Kind::kName, source_.substr(at_, end - at_));
    at_ = end;
    return base::Status::Ok();
  }
  if (IsDigit(c)) return LexNumber(), base::Status::Ok();
  if (c == '\'' || c == '"') return LexString();
  for (const std::string_view op : {"==", "!=", "<=", ">=", "//", "**"}) {
    if (!Rest().starts_with(op)) continue;
    Add(Kind::kOperator, std::string(op));
    at_ += op.size();
    return base::Status::Ok();
  }
  if (std::string_view("+-*/%~<>=()[]{},.:|").find(c) == std::string_view::npos) {
    return base::InvalidArgument("line {}: unexpected character (byte 0x{:02X})", line_,
                                 static_cast<uint8_t>(c));
  }
  Add(Kind::kOperator, std::string(1, c));
  ++at_;
  return base::Status::Ok();
}

void Lexer::LexNumber() {
  size_t end = at_;
  const auto skip_digits = [&] {
    while (end < source_.size() && IsDigit(source_[end])) ++end;
  };
  skip_digits();
  Kind kind = Kind::kInt;
  if (end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1])) {
    kind = Kind::kFloat;
    ++end;
    skip_digits();
  }
  Add(kind, source_.substr(at_, end - at_));
  at_ = end;
}

base::Status Lexer::LexString() {
  const int first_line = line_;
  const char quote = source_[at_];
  Step(1);
  std::string text;
  while (at_ < source_.size()) {
    const char c = source_[at_];
    if (c == quote) {
      Step(1);
      Add(Kind::kString, std::move(text));
      return base::Status::Ok();
    }
    if (c == '\\') {
      KVPLANE_RETURN_IF_ERROR(AppendEscape(&text));
    } else {
      text.push_back(c);
      Step(1);
    }
  }
  return base::InvalidArgument("line {}: string without its closing quote", first_line);
}

// Python's escapes; an unknown one keeps its backslash.
base::Status Lexer::AppendEscape(std::string* out) {
  constexpr std::string_view kNames = "ntrabfv\\'\"";
  constexpr std::string_view kValues = "\n\t\r\a\b\f\v\\'\"";
  if (at_ + 1 >= source_.size())
    return base::InvalidArgument("line {}: string without its closing quote", line_);
  const char name = source_[at_ + 1];
  if (const size_t known = kNames.find(name); known != std::string_view::npos) {
    out->push_back(kValues[known]);
    Step(2);
    return base::Status::Ok();
  }
  if (name == '\n') return Step(2), base::Status::Ok();
  if (name == 'x') return AppendHex(2, out);
  if (name == 'u') return AppendHex(4, out);
  if (name == 'U') return AppendHex(8, out);
  if (IsDigit(name)) return base::Unimplemented("line {}: octal escape '\\{}'", line_, name);
  out->push_back('\\');
  Step(1);
  return base::Status::Ok();
}

base::Status Lexer::AppendHex(size_t digits, std::string* out) {
  const std::string_view text = Rest().substr(2, digits);
  uint32_t value = 0;
  bool valid = text.size() == digits;
  for (const char c : text) {
    const int digit = HexDigit(c);
    valid = valid && digit >= 0;
    value = value * 16 + static_cast<uint32_t>(std::max(digit, 0));
  }
  if (!valid || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
    return base::InvalidArgument("line {}: escape that is no character", line_);
  }
  AppendUtf8(value, out);
  Step(2 + digits);
  return base::Status::Ok();
}

}  // namespace

base::Result<std::vector<TemplateToken>> LexTemplate(std::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    return base::ResourceExhausted("a template of {} bytes, the limit is {}", source.size(),
                                   kMaxTemplateBytes);
  }
  if (FindInvalidUtf8(source)) return base::InvalidArgument("the template is not UTF-8");
  return Lexer(NormalizeLines(source)).Run();
}

}  // namespace kvplane::model
