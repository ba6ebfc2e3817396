// JsonFields: typed reading of the members of a JSON object; the first error is kept and names the field.
// Internal to the .cc files that parse requests (the only header that shows the JSON library).
//
// null counts as absent, as OpenAI's clients send it for parameters left out.
//
// Thread safety: none.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "kvplane/server/api_error.h"

namespace kvplane::server {

// The object in `body`, or the 400 that says why there is none.
ApiResult<nlohmann::json> ParseJsonObject(std::string_view body);

class JsonFields {
 public:
  // `prefix` stands before field names in messages ("stream_options.").
  explicit JsonFields(const nlohmann::json& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {}

  // The member, or nullptr when absent or null.
  const nlohmann::json* Find(std::string_view name) const;

  void Bool(std::string_view name, bool& out);
  void String(std::string_view name, std::string& out);
  // An integer in [low, high]; a number with a zero fraction counts.
  std::optional<int64_t> Integer(std::string_view name, int64_t low, int64_t high);
  void Float(std::string_view name, float low, float high, float& out);
  void TokenIds(std::string_view name, std::vector<int32_t>& out);
  // The member when it is an object.
  const nlohmann::json* Object(std::string_view name);

  void Fail(std::string_view name, std::string message);
  bool ok() const { return !error_.has_value(); }
  const std::optional<ApiError>& error() const { return error_; }
  // Takes over the error of fields nested in one of this object's members.
  void Absorb(const JsonFields& nested) {
    if (ok()) error_ = nested.error_;
  }

 private:
  const nlohmann::json& object_;
  std::string prefix_;
  std::optional<ApiError> error_;
};

// An int32 token id, or nothing.
std::optional<int32_t> AsTokenId(const nlohmann::json& value);
// Short text of a JSON value's type for messages: "a string", "an array".
std::string_view TypeName(const nlohmann::json& value);

}  // namespace kvplane::server
