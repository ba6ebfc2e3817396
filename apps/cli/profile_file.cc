#include "apps/cli/profile_file.h"

#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

namespace kvplane::cli {

base::Result<std::shared_ptr<const codec::ModelProfile>> ReadProfileFile(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return base::NotFound("{}: no such profile", path.string());
  }
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return base::Unavailable("{}: {}", path.string(), error.message());
  if (size > codec::kMaxProfileBytes) {
    return base::ResourceExhausted("{}: {} bytes, profiles have at most {}", path.string(), size,
                                   codec::kMaxProfileBytes);
  }
  std::vector<std::byte> bytes(size);
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size))) {
    return base::Unavailable("{}: cannot be read", path.string());
  }
  auto profile = codec::ModelProfile::Parse(bytes);
  if (!profile.ok()) return profile.status().Annotate(path.string());
  return profile;
}

base::Result<codec::ProfileSet> ReadProfileFiles(std::span<const std::string> paths) {
  codec::ProfileSet profiles;
  for (const std::string& path : paths) {
    KVPLANE_ASSIGN_OR_RETURN(std::shared_ptr<const codec::ModelProfile> profile, ReadProfileFile(path));
    profiles.Add(std::move(profile));
  }
  return profiles;
}

base::Status WriteProfileFile(const codec::ModelProfile& profile, const std::filesystem::path& path) {
  std::filesystem::path part = path;
  part += ".part";
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(profile.bytes().data()),
             static_cast<std::streamsize>(profile.bytes().size()));
  file.close();
  std::error_code error;
  if (!file) {
    std::filesystem::remove(part, error);
    return base::Unavailable("{}: cannot be written", part.string());
  }
  std::filesystem::rename(part, path, error);
  if (error) return base::Unavailable("{}: {}", path.string(), error.message());
  return base::Status::Ok();
}

}  // namespace kvplane::cli
