#include "kvplane/transport/token_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string_view>
#include <utility>

namespace kvplane::transport {
namespace {

// Longer files are not token files; the bound keeps a wrong path (a model, say) from being read into memory.
constexpr size_t kMaxTokens = 1024;
constexpr size_t kMaxTokenBytes = 4096;
constexpr size_t kMaxFileBytes = kMaxTokens * kMaxTokenBytes;

bool IsVisible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

}  // namespace

base::Result<std::vector<std::string>> ReadTokenFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return base::NotFound("token file '{}': {}", path, std::strerror(errno));
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxFileBytes) {
    return base::InvalidArgument("token file '{}' is longer than {} bytes", path, kMaxFileBytes);
  }
  std::vector<std::string> tokens;
  std::string line;
  std::istringstream lines(std::move(text));
  while (std::getline(lines, line)) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line.front() == '#') continue;
    if (line.size() > kMaxTokenBytes || tokens.size() >= kMaxTokens || !IsVisible(line)) {
      return base::InvalidArgument("token file '{}': one token of visible ASCII per line is expected", path);
    }
    tokens.push_back(line);
  }
  if (tokens.empty()) return base::InvalidArgument("token file '{}' holds no token", path);
  return tokens;
}

}  // namespace kvplane::transport
