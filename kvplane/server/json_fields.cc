#include "kvplane/server/json_fields.h"

#include <cmath>
#include <limits>
#include <utility>

#include "kvplane/base/json_depth.h"

namespace kvplane::server {

using nlohmann::json;

namespace {

// The library's messages quote what they could not read, up to the whole body.
constexpr size_t kMaxReasonBytes = 256;

}  // namespace

ApiResult<json> ParseJsonObject(std::string_view body) {
  if (body.empty()) return tl::make_unexpected(PlainError(400, "the request has no body: JSON is expected"));
  if (base::NestsTooDeep(body)) {
    return tl::make_unexpected(
        PlainError(400, fmt::format("the body nests deeper than {} levels", base::kMaxJsonDepth)));
  }
  json value;
  try {
    value = json::parse(body);
  } catch (const json::exception& error) {
    return tl::make_unexpected(
        PlainError(400, fmt::format("the body is not valid JSON: {}",
                                    std::string_view(error.what()).substr(0, kMaxReasonBytes))));
  }
  if (!value.is_object()) {
    return tl::make_unexpected(
        PlainError(400, fmt::format("the body must be a JSON object, not {}", TypeName(value))));
  }
  return value;
}

std::string_view TypeName(const json& value) {
  switch (value.type()) {
    case json::value_t::null:
      return "null";
    case json::value_t::boolean:
      return "a boolean";
    case json::value_t::string:
      return "a string";
    case json::value_t::array:
      return "an array";
    case json::value_t::object:
      return "an object";
    case json::value_t::number_float:
      return "a fraction";
    default:
      return "an integer";
  }
}

std::optional<int32_t> AsTokenId(const json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= uint64_t{std::numeric_limits<int32_t>::max()}
                        : false;  // negative
  if (!fits) return std::nullopt;
  return value.get<int32_t>();
}

const json* JsonFields::Find(std::string_view name) const {
  const auto at = object_.find(name);
  return at == object_.end() || at->is_null() ? nullptr : &*at;
}

void JsonFields::Fail(std::string_view name, std::string message) {
  if (error_) return;
  const std::string param = prefix_ + std::string(name);
  error_ = BadField(param, fmt::format("{}: {}", param, message));
}

void JsonFields::Bool(std::string_view name, bool& out) {
  const json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_boolean()) return Fail(name, fmt::format("must be a boolean, not {}", TypeName(*value)));
  out = value->get<bool>();
}

void JsonFields::String(std::string_view name, std::string& out) {
  const json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_string()) return Fail(name, fmt::format("must be a string, not {}", TypeName(*value)));
  out = value->get<std::string>();
}

std::optional<int64_t> JsonFields::Integer(std::string_view name, int64_t low, int64_t high) {
  const json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  std::optional<int64_t> number;
  if (value->is_number_unsigned()) {
    const auto wide = value->get<uint64_t>();
    if (wide <= uint64_t{std::numeric_limits<int64_t>::max()}) number = static_cast<int64_t>(wide);
  } else if (value->is_number_integer()) {
    number = value->get<int64_t>();
  } else if (value->is_number_float()) {
    const auto wide = value->get<double>();
    if (std::trunc(wide) == wide && std::abs(wide) < 1e15) number = static_cast<int64_t>(wide);
  } else {
    Fail(name, fmt::format("must be an integer, not {}", TypeName(*value)));
    return std::nullopt;
  }
  if (!number || *number < low || *number > high) {
    Fail(name, fmt::format("must be an integer from {} to {}", low, high));
    return std::nullopt;
  }
  return number;
}

void JsonFields::Float(std::string_view name, float low, float high, float& out) {
  const json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_number()) return Fail(name, fmt::format("must be a number, not {}", TypeName(*value)));
  const auto number = value->get<double>();
  if (!(number >= double{low} && number <= double{high})) {
    return Fail(name, fmt::format("must be a number from {} to {}", low, high));
  }
  out = static_cast<float>(number);
}

void JsonFields::TokenIds(std::string_view name, std::vector<int32_t>& out) {
  const json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_array()) return Fail(name, fmt::format("must be an array, not {}", TypeName(*value)));
  out.clear();
  out.reserve(value->size());
  for (const json& item : *value) {
    const std::optional<int32_t> id = AsTokenId(item);
    if (!id) return Fail(name, "must hold token ids: integers from 0");
    out.push_back(*id);
  }
}

const json* JsonFields::Object(std::string_view name) {
  const json* value = Find(name);
  if (value == nullptr || value->is_object()) return value;
  Fail(name, fmt::format("must be an object, not {}", TypeName(*value)));
  return nullptr;
}

}  // namespace kvplane::server
