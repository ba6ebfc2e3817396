#include "kvplane/model/template_value.h"

#include <algorithm>
#include <cmath>

namespace kvplane::model {
namespace {

constexpr size_t kBytesPerWeight = 32;

base::Status CheckSize(size_t depth, size_t weight) {
  if (depth > TemplateValue::kMaxDepth) {
    return base::ResourceExhausted("lists nested deeper than {}", TemplateValue::kMaxDepth);
  }
  if (weight > TemplateValue::kMaxWeight) {
    return base::ResourceExhausted("a list of more than {} values", TemplateValue::kMaxWeight);
  }
  return base::Status::Ok();
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

void AppendJsonString(std::string_view text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\b':
        *out += "\\b";
        break;
      case '\f':
        *out += "\\f";
        break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          *out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

// `level`: nesting, for the indent.
base::Status AppendJson(const TemplateValue& value, int indent, int level, std::string* out) {
  using Kind = TemplateValue::Kind;
  const auto new_line = [&](int at_level) {
    if (indent >= 0) out->append("\n").append(static_cast<size_t>(indent * at_level), ' ');
  };
  const std::string_view separator = indent >= 0 ? "," : ", ";
  switch (value.kind()) {
    case Kind::kString:
      AppendJsonString(value.as_string(), out);
      return base::Status::Ok();
    case Kind::kNone:
      *out += "null";
      return base::Status::Ok();
    case Kind::kBool:
      *out += value.as_bool() ? "true" : "false";
      return base::Status::Ok();
    case Kind::kInt:
    case Kind::kFloat: {
      KVPLANE_ASSIGN_OR_RETURN(const std::string text, ToText(value));
      *out += text;
      return base::Status::Ok();
    }
    case Kind::kList: {
      if (value.as_list().empty()) return out->append("[]"), base::Status::Ok();
      out->push_back('[');
      for (size_t i = 0; i < value.as_list().size(); ++i) {
        if (i > 0) *out += separator;
        new_line(level + 1);
        KVPLANE_RETURN_IF_ERROR(AppendJson(value.as_list()[i], indent, level + 1, out));
      }
      new_line(level);
      out->push_back(']');
      return base::Status::Ok();
    }
    case Kind::kDict: {
      if (value.as_dict().empty()) return out->append("{}"), base::Status::Ok();
      out->push_back('{');
      for (size_t i = 0; i < value.as_dict().size(); ++i) {
        const auto& [key, item] = value.as_dict()[i];
        if (i > 0) *out += separator;
        new_line(level + 1);
        AppendJsonString(key, out);
        *out += ": ";
        KVPLANE_RETURN_IF_ERROR(AppendJson(item, indent, level + 1, out));
      }
      new_line(level);
      out->push_back('}');
      return base::Status::Ok();
    }
    case Kind::kUndefined:
    case Kind::kNamespace:
      break;
  }
  return base::InvalidArgument("{} has no JSON form", value.KindName());
}

}  // namespace

TemplateValue TemplateValue::String(std::string value) {
  return TemplateValue(Data(std::make_shared<const std::string>(std::move(value))));
}

base::Result<TemplateValue> TemplateValue::FromList(List items) {
  size_t deepest = 0;
  size_t total = 1;
  for (const TemplateValue& item : items) {
    deepest = std::max(deepest, item.depth());
    total += item.weight();
  }
  KVPLANE_RETURN_IF_ERROR(CheckSize(deepest + 1, total));
  return TemplateValue(Data(std::make_shared<const ListBox>(ListBox{std::move(items), deepest + 1, total})));
}

base::Result<TemplateValue> TemplateValue::FromDict(Dict items) {
  size_t deepest = 0;
  size_t total = 1;
  for (const auto& [key, item] : items) {
    deepest = std::max(deepest, item.depth());
    total += 1 + key.size() / kBytesPerWeight + item.weight();
  }
  KVPLANE_RETURN_IF_ERROR(CheckSize(deepest + 1, total));
  return TemplateValue(Data(std::make_shared<const DictBox>(DictBox{std::move(items), deepest + 1, total})));
}

std::string_view TemplateValue::KindName() const {
  switch (kind()) {
    case Kind::kUndefined:
      return "an undefined value";
    case Kind::kNone:
      return "none";
    case Kind::kBool:
      return "a boolean";
    case Kind::kInt:
      return "an integer";
    case Kind::kFloat:
      return "a float";
    case Kind::kString:
      return "a string";
    case Kind::kList:
      return "a list";
    case Kind::kDict:
      return "a dictionary";
    case Kind::kNamespace:
      return "a namespace";
  }
  return "a value";
}

bool TemplateValue::Truthy() const {
  switch (kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return as_bool();
    case Kind::kInt:
      return as_int() != 0;
    case Kind::kFloat:
      return as_float() != 0.0;
    case Kind::kString:
      return !as_string().empty();
    case Kind::kList:
      return !as_list().empty();
    case Kind::kDict:
      return !as_dict().empty();
    case Kind::kNamespace:
      return true;
  }
  return true;
}

size_t TemplateValue::weight() const {
  if (is(Kind::kString)) return 1 + as_string().size() / kBytesPerWeight;
  if (is(Kind::kList)) return std::get<std::shared_ptr<const ListBox>>(data_)->weight;
  if (is(Kind::kDict)) return std::get<std::shared_ptr<const DictBox>>(data_)->weight;
  return 1;
}

size_t TemplateValue::depth() const {
  if (is(Kind::kList)) return std::get<std::shared_ptr<const ListBox>>(data_)->depth;
  if (is(Kind::kDict)) return std::get<std::shared_ptr<const DictBox>>(data_)->depth;
  return 0;
}

bool TemplateValue::AsNumber(double* number) const {
  switch (kind()) {
    case Kind::kBool:
      *number = as_bool() ? 1.0 : 0.0;
      return true;
    case Kind::kInt:
      *number = static_cast<double>(as_int());
      return true;
    case Kind::kFloat:
      *number = as_float();
      return true;
    default:
      return false;
  }
}

const TemplateValue* FindEntry(const TemplateValue::Dict& dict, std::string_view key) {
  const auto found =
      std::find_if(dict.begin(), dict.end(), [key](const auto& entry) { return entry.first == key; });
  return found == dict.end() ? nullptr : &found->second;
}

bool Equal(const TemplateValue& a, const TemplateValue& b) {
  using Kind = TemplateValue::Kind;
  if (a.is(Kind::kInt) && b.is(Kind::kInt)) return a.as_int() == b.as_int();
  double x = 0.0;
  double y = 0.0;
  if (a.AsNumber(&x) && b.AsNumber(&y)) return x == y;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kString:
      return a.as_string() == b.as_string();
    case Kind::kNamespace:
      return a.namespace_number() == b.namespace_number();
    case Kind::kList:
      return std::equal(a.as_list().begin(), a.as_list().end(), b.as_list().begin(), b.as_list().end(),
                        Equal);
    case Kind::kDict:
      return a.as_dict().size() == b.as_dict().size() &&
             std::all_of(a.as_dict().begin(), a.as_dict().end(), [&b](const auto& entry) {
               const TemplateValue* other = FindEntry(b.as_dict(), entry.first);
               return other != nullptr && Equal(entry.second, *other);
             });
    default:
      return true;  // undefined, none: one value each
  }
}

base::Result<std::string> ToText(const TemplateValue& value) {
  using Kind = TemplateValue::Kind;
  switch (value.kind()) {
    case Kind::kUndefined:
      return std::string();
    case Kind::kNone:
      return std::string("None");
    case Kind::kBool:
      return std::string(value.as_bool() ? "True" : "False");
    case Kind::kInt:
      return fmt::format("{}", value.as_int());
    case Kind::kFloat:
      return FloatText(value.as_float());
    case Kind::kString:
      return value.as_string();
    default:
      return base::InvalidArgument("{} cannot be written as text (tojson can)", value.KindName());
  }
}

base::Result<std::string> ToJson(const TemplateValue& value, int indent) {
  std::string out;
  KVPLANE_RETURN_IF_ERROR(AppendJson(value, indent, 0, &out));
  return out;
}

}  // namespace kvplane::model
