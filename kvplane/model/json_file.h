// Reads JSON files of a model folder, with a bound on their size, and their fields, with their types
// checked; errors name the file or the field.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "kvplane/base/status.h"

namespace kvplane::model {

// The largest tokenizer.json in use is about 35 MB (256k tokens).
inline constexpr size_t kMaxJsonFileBytes = size_t{256} << 20;

// kNotFound, kResourceExhausted (too large) or kInternal (unreadable).
base::Result<std::string> ReadTextFile(const std::filesystem::path& path,
                                       size_t max_bytes = kMaxJsonFileBytes);

// As ReadTextFile, and kCorrupt when it is not JSON or its top level is not an object.
base::Result<nlohmann::json> ReadJsonObject(const std::filesystem::path& path);

// The same for bytes in memory; `name` stands in error messages.
base::Result<nlohmann::json> ParseJsonObject(std::string_view bytes, std::string_view name);

// The member, or null when it is absent or JSON null or `object` is no object.
const nlohmann::json* FindField(const nlohmann::json& object, std::string_view key);

// Typed members; kCorrupt "<where>.<key> is not ..." when absent (unless there is a fallback) or mistyped.
base::Result<std::string> StringField(const nlohmann::json& object, std::string_view key,
                                      std::string_view where);
base::Result<bool> BoolField(const nlohmann::json& object, std::string_view key, bool fallback,
                             std::string_view where);
base::Result<const nlohmann::json*> ListField(const nlohmann::json& object, std::string_view key,
                                              std::string_view where);

}  // namespace kvplane::model
