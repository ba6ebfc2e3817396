#include "kvplane/model/template_builtins.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "kvplane/model/utf8.h"

namespace kvplane::model {
namespace {

using Value = TemplateValue;
using Kind = TemplateValue::Kind;
using ValueResult = base::Result<TemplateValue>;

constexpr size_t kMaxIndent = 16;

template <size_t kCount>
bool Holds(const std::array<std::string_view, kCount>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

base::Status WrongArguments(const TemplateCall& call) {
  return base::InvalidArgument("wrong arguments of '{}'", call.name);
}

// The positional argument `index`, or the keyword `name`, or null.
const Value* Argument(const TemplateCall& call, size_t index, std::string_view name) {
  if (index < call.args.size()) return &call.args[index];
  for (const auto& [keyword, value] : call.keywords) {
    if (keyword == name) return &value;
  }
  return nullptr;
}

ValueResult NewString(std::string text, TemplateBudget* budget) {
  KVPLANE_RETURN_IF_ERROR(budget->Bytes(text.size()));
  return Value::String(std::move(text));
}

ValueResult NewList(Value::List items, TemplateBudget* budget) {
  KVPLANE_RETURN_IF_ERROR(budget->Steps(items.size()));
  return Value::FromList(std::move(items));
}

// str.isspace of Python: Unicode white space and the four information separators.
bool IsPythonSpace(char32_t c) { return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F); }

// Characters of `set` go; without a set white space.
std::string_view Strip(std::string_view text, bool left, bool right, std::optional<std::string_view> set) {
  const auto goes = [&](std::string_view character) {
    return set ? set->find(character) != std::string_view::npos
               : IsPythonSpace(NextUtf8(character, 0).code_point);
  };
  while (left && !text.empty()) {
    const size_t length = NextUtf8(text, 0).length;
    if (!goes(text.substr(0, length))) break;
    text.remove_prefix(length);
  }
  while (right && !text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    if (!goes(text.substr(start))) break;
    text = text.substr(0, start);
  }
  return text;
}

char Upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// ASCII letters; others stay.
std::string ChangeCase(std::string text, std::string_view how) {
  std::transform(text.begin(), text.end(), text.begin(), how == "upper" ? Upper : Lower);
  if (how == "capitalize" && !text.empty()) text[0] = Upper(text[0]);
  return text;
}

ValueResult Replace(const TemplateCall& call, std::string_view text) {
  const Value* old_text = Argument(call, 1, "old");
  const Value* new_text = Argument(call, 2, "new");
  if (call.args.size() > 3 || old_text == nullptr || new_text == nullptr || !old_text->is(Kind::kString) ||
      !new_text->is(Kind::kString) || old_text->as_string().empty()) {
    return WrongArguments(call);
  }
  std::string out;
  size_t offset = 0;
  while (true) {
    const size_t found = text.find(old_text->as_string(), offset);
    out += text.substr(offset, found - offset);
    if (found == std::string_view::npos) break;
    KVPLANE_RETURN_IF_ERROR(call.budget->Bytes(new_text->as_string().size()));
    out += new_text->as_string();
    offset = found + old_text->as_string().size();
  }
  return NewString(std::move(out), call.budget);
}

ValueResult Join(const Value& items, const Value* separator, TemplateBudget* budget) {
  if (separator != nullptr && !separator->is(Kind::kString)) {
    return base::InvalidArgument("join with {}", separator->KindName());
  }
  KVPLANE_ASSIGN_OR_RETURN(const Value::List list, ItemsOf(items, budget));
  std::string out;
  for (size_t i = 0; i < list.size(); ++i) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string text, ToText(list[i]));
    const std::string_view glue = i > 0 && separator != nullptr ? separator->as_string() : std::string_view();
    KVPLANE_RETURN_IF_ERROR(budget->Bytes(text.size() + glue.size()));
    out.append(glue).append(text);
  }
  return Value::String(std::move(out));
}

ValueResult Length(const Value& value, TemplateBudget* budget) {
  if (value.is(Kind::kList)) return Value::Int(static_cast<int64_t>(value.as_list().size()));
  if (value.is(Kind::kDict)) return Value::Int(static_cast<int64_t>(value.as_dict().size()));
  if (value.is(Kind::kUndefined)) return Value::Int(0);
  if (!value.is(Kind::kString)) return base::InvalidArgument("{} has no length", value.KindName());
  const std::string& text = value.as_string();
  KVPLANE_RETURN_IF_ERROR(budget->Steps(value.weight()));
  const auto characters = std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<uint8_t>(c) & 0xC0) != 0x80;  // UTF-8: all but continuation bytes
  });
  return Value::Int(characters);
}

ValueResult DictItems(const Value& value, TemplateBudget* budget) {
  Value::List items;
  if (value.is(Kind::kUndefined)) return NewList(std::move(items), budget);
  if (!value.is(Kind::kDict)) return base::InvalidArgument("items of {}", value.KindName());
  for (const auto& [key, item] : value.as_dict()) {
    KVPLANE_ASSIGN_OR_RETURN(Value pair, Value::FromList({Value::String(key), item}));
    items.push_back(std::move(pair));
  }
  return NewList(std::move(items), budget);
}

ValueResult ToInt(const TemplateCall& call) {
  const Value& value = call.args[0];
  if (value.is(Kind::kInt)) return value;
  if (value.is(Kind::kBool)) return Value::Int(value.as_bool() ? 1 : 0);
  if (value.is(Kind::kFloat)) {
    const double number = value.as_float();
    if (!(number > -9e18 && number < 9e18)) return base::InvalidArgument("{} is no integer", number);
    return Value::Int(static_cast<int64_t>(number));
  }
  if (value.is(Kind::kString)) {
    const std::string_view text = Strip(value.as_string(), true, true, std::nullopt);
    int64_t number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size()) return Value::Int(number);
  }
  const Value* fallback = Argument(call, 1, "default");
  return fallback == nullptr ? Value::Int(0) : *fallback;
}

ValueResult Json(const TemplateCall& call) {
  const Value* indent = Argument(call, 1, "indent");
  if (indent != nullptr && indent->is(Kind::kNone)) indent = nullptr;
  if (indent != nullptr && (!indent->is(Kind::kInt) || indent->as_int() < 0 ||
                            indent->as_int() > static_cast<int64_t>(kMaxIndent))) {
    return WrongArguments(call);
  }
  // A value of weight w is at most 32 bytes a unit, each escaped sixfold, plus an indented line per value.
  const size_t weight = call.args[0].weight();
  KVPLANE_RETURN_IF_ERROR(call.budget->Steps(weight));
  KVPLANE_ASSIGN_OR_RETURN(std::string text,
                           ToJson(call.args[0], indent == nullptr ? -1 : static_cast<int>(indent->as_int())));
  return NewString(std::move(text), call.budget);
}

// The field `name` of a dictionary, "undefined" otherwise.
Value Field(const Value& value, std::string_view name) {
  const Value* found = value.is(Kind::kDict) ? FindEntry(value.as_dict(), name) : nullptr;
  return found == nullptr ? Value() : *found;
}

// select, reject, selectattr, rejectattr.
ValueResult Select(const TemplateCall& call) {
  const bool by_field = call.name.ends_with("attr");
  const bool keeps = call.name.starts_with("select");
  std::span<const Value> rest = call.args.subspan(1);
  if (!call.keywords.empty()) return WrongArguments(call);
  std::string_view field;
  if (by_field) {
    if (rest.empty() || !rest[0].is(Kind::kString)) return WrongArguments(call);
    field = rest[0].as_string();
    rest = rest.subspan(1);
  }
  if (!rest.empty() && (!rest[0].is(Kind::kString) || !IsTemplateTest(rest[0].as_string()))) {
    return base::InvalidArgument("'{}' with an unknown test", call.name);
  }
  KVPLANE_ASSIGN_OR_RETURN(const Value::List items, ItemsOf(call.args[0], call.budget));
  Value::List kept;
  for (const Value& item : items) {
    const Value subject = by_field ? Field(item, field) : item;
    bool passes = subject.Truthy();
    if (!rest.empty()) {
      std::vector<Value> args{subject};
      args.insert(args.end(), rest.begin() + 1, rest.end());
      KVPLANE_ASSIGN_OR_RETURN(passes, CallTest({rest[0].as_string(), args, {}, call.budget}));
    }
    if (passes == keeps) kept.push_back(item);
  }
  return NewList(std::move(kept), call.budget);
}

// map(attribute="x") and map("filter").
ValueResult Map(const TemplateCall& call) {
  const Value* field = Argument(call, call.args.size(), "attribute");
  const Value* filter = call.args.size() == 2 ? &call.args[1] : nullptr;
  const bool valid =
      (field == nullptr) != (filter == nullptr) && call.args.size() <= 2 &&
      (field == nullptr || field->is(Kind::kString)) &&
      (filter == nullptr ||
       (filter->is(Kind::kString) && IsTemplateFilter(filter->as_string()) && filter->as_string() != "map"));
  if (!valid) return WrongArguments(call);
  KVPLANE_ASSIGN_OR_RETURN(Value::List items, ItemsOf(call.args[0], call.budget));
  for (Value& item : items) {
    if (field != nullptr) {
      item = Field(item, field->as_string());
    } else {
      const Value operand = item;
      KVPLANE_ASSIGN_OR_RETURN(item, CallFilter({filter->as_string(), {&operand, 1}, {}, call.budget}));
    }
  }
  return NewList(std::move(items), call.budget);
}

ValueResult Split(const TemplateCall& call, std::string_view text) {
  Value::List parts;
  const auto add = [&](std::string_view part) -> base::Status {
    KVPLANE_RETURN_IF_ERROR(call.budget->Bytes(part.size() + sizeof(Value)));
    parts.push_back(Value::String(std::string(part)));
    return base::Status::Ok();
  };
  int64_t splits_left = INT64_MAX;
  if (call.args.size() > 2) {
    if (!call.args[2].is(Kind::kInt) || call.args.size() > 3) return WrongArguments(call);
    if (call.args[2].as_int() >= 0) splits_left = call.args[2].as_int();
  }
  if (call.args.size() == 1 || call.args[1].is(Kind::kNone)) {  // runs of white space
    text = Strip(text, true, false, std::nullopt);
    while (!text.empty()) {
      size_t end = 0;
      while (end < text.size() && !IsPythonSpace(NextUtf8(text, end).code_point))
        end += NextUtf8(text, end).length;
      if (splits_left-- == 0) end = text.size();
      KVPLANE_RETURN_IF_ERROR(add(text.substr(0, end)));
      text = Strip(text.substr(end), true, false, std::nullopt);
    }
    return NewList(std::move(parts), call.budget);
  }
  if (!call.args[1].is(Kind::kString) || call.args[1].as_string().empty()) return WrongArguments(call);
  const std::string& separator = call.args[1].as_string();
  while (true) {
    const size_t found = splits_left-- > 0 ? text.find(separator) : std::string_view::npos;
    KVPLANE_RETURN_IF_ERROR(add(text.substr(0, found)));
    if (found == std::string_view::npos) break;
    text.remove_prefix(found + separator.size());
  }
  return NewList(std::move(parts), call.budget);
}

ValueResult StringMethod(const TemplateCall& call) {
  const std::string& text = call.args[0].as_string();
  const std::string_view name = call.name;
  const size_t extra = call.args.size() - 1;
  KVPLANE_RETURN_IF_ERROR(call.budget->Steps(call.args[0].weight()));
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    if (extra > 1 || (extra == 1 && !call.args[1].is(Kind::kString))) return WrongArguments(call);
    std::optional<std::string_view> set;
    if (extra == 1) set = call.args[1].as_string();
    return NewString(std::string(Strip(text, name != "rstrip", name != "lstrip", set)), call.budget);
  }
  if (name == "split") return Split(call, text);
  if (name == "replace") return Replace(call, text);
  if (name == "join")
    return extra == 1 ? Join(call.args[1], &call.args[0], call.budget) : WrongArguments(call);
  if (name == "upper" || name == "lower" || name == "capitalize") {
    return extra == 0 ? NewString(ChangeCase(text, name), call.budget) : WrongArguments(call);
  }
  if (name != "startswith" && name != "endswith" && name != "find") {
    return base::InvalidArgument("a string has no method '{}'", name);
  }
  if (extra != 1 || !call.args[1].is(Kind::kString)) return WrongArguments(call);
  const std::string& other = call.args[1].as_string();
  if (name == "startswith") return Value::Bool(text.starts_with(other));
  if (name == "endswith") return Value::Bool(text.ends_with(other));
  const size_t found = text.find(other);
  if (found == std::string::npos) return Value::Int(-1);
  return Length(Value::String(text.substr(0, found)), call.budget);  // in characters
}

ValueResult DictMethod(const TemplateCall& call) {
  const Value::Dict& dict = call.args[0].as_dict();
  const std::string_view name = call.name;
  if (name == "get") {
    if (call.args.size() < 2 || call.args.size() > 3 || !call.args[1].is(Kind::kString))
      return WrongArguments(call);
    if (const Value* found = FindEntry(dict, call.args[1].as_string())) return *found;
    return call.args.size() == 3 ? call.args[2] : Value::None();
  }
  if (call.args.size() > 1) return WrongArguments(call);
  if (name == "items") return DictItems(call.args[0], call.budget);
  if (name != "keys" && name != "values")
    return base::InvalidArgument("a dictionary has no method '{}'", name);
  Value::List out;
  for (const auto& [key, value] : dict) out.push_back(name == "keys" ? Value::String(key) : value);
  return NewList(std::move(out), call.budget);
}

ValueResult FirstOrLast(const TemplateCall& call) {
  KVPLANE_ASSIGN_OR_RETURN(const Value::List items, ItemsOf(call.args[0], call.budget));
  if (items.empty()) return Value();
  return call.name == "first" ? items.front() : items.back();
}

ValueResult Default(const TemplateCall& call) {
  const Value* fallback = Argument(call, 1, "default_value");
  const Value* boolean = Argument(call, 2, "boolean");
  const bool missing = call.args[0].is(Kind::kUndefined) ||
                       (boolean != nullptr && boolean->Truthy() && !call.args[0].Truthy());
  if (!missing) return call.args[0];
  return fallback == nullptr ? Value::String("") : *fallback;
}

// Filters of the text of a value, whatever it is.
ValueResult TextFilter(const TemplateCall& call) {
  KVPLANE_ASSIGN_OR_RETURN(std::string text, ToText(call.args[0]));
  KVPLANE_RETURN_IF_ERROR(call.budget->Bytes(text.size()));
  if (call.name == "replace") return Replace(call, text);
  if (call.name == "trim") {
    const Value* set = Argument(call, 1, "chars");
    if (set != nullptr && !set->is(Kind::kString)) return WrongArguments(call);
    std::optional<std::string_view> characters;
    if (set != nullptr) characters = set->as_string();
    return NewString(std::string(Strip(text, true, true, characters)), call.budget);
  }
  if (call.args.size() > 1) return WrongArguments(call);
  if (call.name == "string" || call.name == "safe") return Value::String(std::move(text));
  return NewString(ChangeCase(std::move(text), call.name), call.budget);
}

base::Result<bool> TestInteger(const TemplateCall& call) {
  if (!call.args[0].is(Kind::kInt))
    return base::InvalidArgument("test '{}' of {}", call.name, call.args[0].KindName());
  const int64_t number = call.args[0].as_int();
  if (call.name == "odd") return number % 2 != 0;
  if (call.name == "even") return number % 2 == 0;
  if (!call.args[1].is(Kind::kInt) || call.args[1].as_int() == 0) return WrongArguments(call);
  return call.args[1].as_int() == -1 || number % call.args[1].as_int() == 0;
}

constexpr std::array<std::string_view, 3> kFunctions = {"namespace", "raise_exception", "range"};
constexpr std::array<std::string_view, 24> kFilters = {
    "trim",    "length", "count",  "tojson", "upper",      "lower",      "capitalize", "default",
    "d",       "first",  "last",   "list",   "join",       "string",     "int",        "items",
    "replace", "safe",   "select", "reject", "selectattr", "rejectattr", "map",        "abs"};
constexpr std::array<std::string_view, 24> kTests = {
    "defined", "undefined", "none",     "string", "number", "integer", "float", "boolean",
    "mapping", "iterable",  "sequence", "true",   "false",  "odd",     "even",  "divisibleby",
    "equalto", "eq",        "ne",       "in",     "lt",     "gt",      "le",    "ge"};
constexpr std::array<std::string_view, 8> kTestsWithArgument = {"divisibleby", "equalto", "eq", "ne",
                                                                "in",          "lt",      "gt", "le"};
constexpr std::array<std::string_view, 15> kMethods = {"strip", "lstrip", "rstrip", "startswith", "endswith",
                                                       "split", "upper",  "lower",  "capitalize", "replace",
                                                       "join",  "find",   "items",  "keys",       "values"};

}  // namespace

bool IsTemplateFunction(std::string_view name) { return Holds(kFunctions, name); }
bool IsTemplateFilter(std::string_view name) { return Holds(kFilters, name); }
bool IsTemplateTest(std::string_view name) { return Holds(kTests, name); }
bool IsTemplateMethod(std::string_view name) { return name == "get" || Holds(kMethods, name); }
bool TemplateTestTakesArgument(std::string_view name) {
  return name == "ge" || Holds(kTestsWithArgument, name);
}

base::Status TemplateBudget::Steps(size_t count) {
  if (count > steps_left_) return base::ResourceExhausted("the template takes more than {} steps", kMaxSteps);
  steps_left_ -= count;
  return base::Status::Ok();
}

base::Status TemplateBudget::Bytes(size_t count) {
  if (count > bytes_left_) return base::ResourceExhausted("the template makes more than {} bytes", kMaxBytes);
  bytes_left_ -= count;
  return base::Status::Ok();
}

base::Result<TemplateValue::List> ItemsOf(const TemplateValue& value, TemplateBudget* budget) {
  Value::List items;
  switch (value.kind()) {
    case Kind::kUndefined:
      return items;
    case Kind::kList:
      KVPLANE_RETURN_IF_ERROR(budget->Steps(value.as_list().size()));
      return value.as_list();
    case Kind::kDict:
      KVPLANE_RETURN_IF_ERROR(budget->Steps(value.as_dict().size()));
      for (const auto& [key, item] : value.as_dict()) items.push_back(Value::String(key));
      return items;
    case Kind::kString: {
      const std::string& text = value.as_string();
      KVPLANE_RETURN_IF_ERROR(budget->Bytes(text.size() * sizeof(Value)));
      for (size_t i = 0; i < text.size();) {
        const size_t length = NextUtf8(text, i).length;
        items.push_back(Value::String(text.substr(i, length)));
        i += length;
      }
      return items;
    }
    default:
      return base::InvalidArgument("{} cannot be iterated", value.KindName());
  }
}

base::Result<bool> Contains(const TemplateValue& haystack, const TemplateValue& needle,
                            TemplateBudget* budget) {
  KVPLANE_RETURN_IF_ERROR(budget->Steps(haystack.weight()));
  switch (haystack.kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kList:
      return std::any_of(haystack.as_list().begin(), haystack.as_list().end(),
                         [&](const Value& item) { return Equal(item, needle); });
    case Kind::kDict:
      return needle.is(Kind::kString) && FindEntry(haystack.as_dict(), needle.as_string()) != nullptr;
    case Kind::kString:
      if (!needle.is(Kind::kString)) return base::InvalidArgument("{} in a string", needle.KindName());
      return haystack.as_string().find(needle.as_string()) != std::string::npos;
    default:
      return base::InvalidArgument("'in' {}", haystack.KindName());
  }
}

base::Result<TemplateValue> CallFilter(const TemplateCall& call) {
  const std::string_view name = call.name;
  const Value& operand = call.args[0];
  KVPLANE_RETURN_IF_ERROR(call.budget->Steps(1));
  if (name == "length" || name == "count") return Length(operand, call.budget);
  if (name == "tojson") return Json(call);
  if (name == "default" || name == "d") return Default(call);
  if (name == "first" || name == "last") return FirstOrLast(call);
  if (name == "join") return Join(operand, Argument(call, 1, "d"), call.budget);
  if (name == "int") return ToInt(call);
  if (name == "items") return DictItems(operand, call.budget);
  if (name == "map") return Map(call);
  if (name.starts_with("select") || name.starts_with("reject")) return Select(call);
  if (name == "list") {
    KVPLANE_ASSIGN_OR_RETURN(Value::List items, ItemsOf(operand, call.budget));
    return NewList(std::move(items), call.budget);
  }
  if (name == "abs") {
    if (operand.is(Kind::kFloat))
      return Value::Float(operand.as_float() < 0 ? -operand.as_float() : operand.as_float());
    if (!operand.is(Kind::kInt) || operand.as_int() == INT64_MIN) return WrongArguments(call);
    return Value::Int(operand.as_int() < 0 ? -operand.as_int() : operand.as_int());
  }
  return TextFilter(call);
}

base::Result<bool> CallTest(const TemplateCall& call) {
  const std::string_view name = call.name;
  const Value& operand = call.args[0];
  if (call.args.size() != (TemplateTestTakesArgument(name) ? 2U : 1U)) return WrongArguments(call);
  KVPLANE_RETURN_IF_ERROR(call.budget->Steps(1));
  double left = 0.0;
  double right = 0.0;
  if (name == "defined") return !operand.is(Kind::kUndefined);
  if (name == "undefined") return operand.is(Kind::kUndefined);
  if (name == "none") return operand.is(Kind::kNone);
  if (name == "string") return operand.is(Kind::kString);
  if (name == "number") return operand.AsNumber(&left);
  if (name == "integer") return operand.is(Kind::kInt);
  if (name == "float") return operand.is(Kind::kFloat);
  if (name == "boolean") return operand.is(Kind::kBool);
  if (name == "mapping") return operand.is(Kind::kDict);
  if (name == "iterable" || name == "sequence") {
    return operand.is(Kind::kList) || operand.is(Kind::kDict) || operand.is(Kind::kString) ||
           operand.is(Kind::kUndefined);
  }
  if (name == "true") return operand.is(Kind::kBool) && operand.as_bool();
  if (name == "false") return operand.is(Kind::kBool) && !operand.as_bool();
  if (name == "odd" || name == "even" || name == "divisibleby") return TestInteger(call);
  if (name == "in") return Contains(call.args[1], operand, call.budget);
  if (name == "eq" || name == "equalto" || name == "ne") {
    KVPLANE_RETURN_IF_ERROR(call.budget->Steps(std::min(operand.weight(), call.args[1].weight())));
    return Equal(operand, call.args[1]) == (name != "ne");
  }
  if (!operand.AsNumber(&left) || !call.args[1].AsNumber(&right)) return WrongArguments(call);
  if (name == "lt") return left < right;
  if (name == "gt") return left > right;
  return name == "le" ? left <= right : left >= right;
}

base::Result<TemplateValue> CallMethod(const TemplateCall& call) {
  KVPLANE_RETURN_IF_ERROR(call.budget->Steps(1));
  if (call.args[0].is(Kind::kString)) return StringMethod(call);
  if (call.args[0].is(Kind::kDict)) return DictMethod(call);
  return base::InvalidArgument("{} has no method '{}'", call.args[0].KindName(), call.name);
}

}  // namespace kvplane::model
