#include "apps/cli/profile_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "kvplane/codec/testing/synthetic_profile.h"

namespace kvplane::cli {
namespace {

using ::testing::HasSubstr;

TEST(ProfileFileUnit, ReadsWhatItWrote) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "profile_file_test.kvpf";
  const auto profile = codec::testing::SyntheticProfile();
  ASSERT_TRUE(WriteProfileFile(*profile, path).ok());
  const auto read = ReadProfileFile(path);
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_TRUE((*read)->id() == profile->id());
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".part"));
  std::filesystem::remove(path);
}

TEST(ProfileFileSafety, NamesTheFileAndWhatIsWrong) {
  EXPECT_EQ(ReadProfileFile("/nonexistent/profile").status().code(), base::StatusCode::kNotFound);
  EXPECT_EQ(ReadProfileFile(::testing::TempDir()).status().code(), base::StatusCode::kNotFound);
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "no_profile.kvpf";
  std::ofstream(path) << "not a profile";
  const base::Status status = ReadProfileFile(path).status();
  EXPECT_EQ(status.code(), base::StatusCode::kCorrupt);
  EXPECT_THAT(status.message(), HasSubstr("no_profile.kvpf"));
  // Larger than any profile, without the bytes.
  std::filesystem::resize_file(path, codec::kMaxProfileBytes + 1);
  EXPECT_EQ(ReadProfileFile(path).status().code(), base::StatusCode::kResourceExhausted);
  std::filesystem::remove(path);
  EXPECT_EQ(WriteProfileFile(*codec::testing::SyntheticProfile(), "/nonexistent/profile").code(),
            base::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace kvplane::cli
