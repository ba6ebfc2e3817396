#include "apps/cli/own_token.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kvplane/server/random_id.h"

namespace kvplane::cli {

base::Result<std::string> WriteOwnToken(const std::filesystem::path& folder) {
  const std::string path = (folder / "token").string();
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return base::Internal("{}: {}", path, std::strerror(errno));
  constexpr size_t kTokenBytes = 32;
  const std::string line = server::RandomHex(kTokenBytes) + "\n";
  const bool written = write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int error = errno;
  close(file);
  if (!written) return base::Internal("{}: {}", path, std::strerror(error));
  return path;
}

}  // namespace kvplane::cli
