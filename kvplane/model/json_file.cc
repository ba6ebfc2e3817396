#include "kvplane/model/json_file.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "kvplane/base/json_depth.h"

namespace kvplane::model {

base::Result<std::string> ReadTextFile(const std::filesystem::path& path, size_t max_bytes) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    return base::NotFound("{}: no such file", path.string());
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return base::Internal("{}: {}", path.string(), error.message());
  if (size > max_bytes) {
    return base::ResourceExhausted("{}: {} bytes, the limit is {}", path.string(), size, max_bytes);
  }
  std::ifstream stream(path, std::ios::binary);
  std::string bytes(static_cast<size_t>(size), '\0');
  if (!stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
    return base::Internal("{}: cannot be read", path.string());
  }
  return bytes;
}

base::Result<nlohmann::json> ParseJsonObject(std::string_view bytes, std::string_view name) {
  if (base::NestsTooDeep(bytes)) return base::Corrupt("{}: JSON nested too deep", name);
  nlohmann::json json = nlohmann::json::parse(bytes, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return base::Corrupt("{}: not valid JSON", name);
  if (!json.is_object()) return base::Corrupt("{}: the top level is not an object", name);
  return json;
}

base::Result<nlohmann::json> ReadJsonObject(const std::filesystem::path& path) {
  KVPLANE_ASSIGN_OR_RETURN(const std::string bytes, ReadTextFile(path));
  return ParseJsonObject(bytes, path.string());
}

const nlohmann::json* FindField(const nlohmann::json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

base::Result<std::string> StringField(const nlohmann::json& object, std::string_view key,
                                      std::string_view where) {
  const nlohmann::json* value = FindField(object, key);
  if (value == nullptr || !value->is_string()) return base::Corrupt("{}.{} is not a string", where, key);
  return value->get<std::string>();
}

base::Result<bool> BoolField(const nlohmann::json& object, std::string_view key, bool fallback,
                             std::string_view where) {
  const nlohmann::json* value = FindField(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return base::Corrupt("{}.{} is not true or false", where, key);
  return value->get<bool>();
}

base::Result<const nlohmann::json*> ListField(const nlohmann::json& object, std::string_view key,
                                              std::string_view where) {
  const nlohmann::json* value = FindField(object, key);
  if (value == nullptr || !value->is_array()) return base::Corrupt("{}.{} is not a list", where, key);
  return value;
}

}  // namespace kvplane::model
