// The Redis tier over TLS: real servers with certificates made for the test, alone and as a cluster.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/create_store.h"
#include "kvplane/store/redis/redis_options.h"
#include "kvplane/store/redis/redis_store.h"
#include "kvplane/store/redis/testing/redis_processes.h"
#include "kvplane/store/testing/temp_folder.h"
#include "kvplane/transport/testing/test_certificates.h"

namespace kvplane::store {
namespace {

using base::StatusCode;

base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(60); }

// An authority of the test's own, and what it signs, as files.
class CertificateFolder {
 public:
  CertificateFolder() {
    Write("ca.pem", authority_.pem());
    Write("other-ca.pem", stranger_.pem());
    WritePair("server", authority_.Sign("IP:127.0.0.1"));
    WritePair("client", authority_.Sign("DNS:client"));
    WritePair("stranger", stranger_.Sign("DNS:client"));
    WritePair("localhost", authority_.Sign("DNS:localhost"));
  }

  std::string path(const std::string& name) const { return folder_.path() + "/" + name; }

  RedisTls Server(const std::string& pair = "server", bool client_certificates = false) const {
    RedisTls tls{.ca_file = path("ca.pem"),
                 .certificate_file = path(pair + ".pem"),
                 .key_file = path(pair + ".key"),
                 .client_certificates = client_certificates,
                 .credentials = client_};
    tls.credentials.ca_pem = authority_.pem();
    return tls;
  }

 private:
  void Write(const std::string& name, const std::string& text) const { std::ofstream(path(name)) << text; }
  void WritePair(const std::string& name, const transport::TlsCredentials& pair) {
    Write(name + ".pem", pair.certificate_pem);
    Write(name + ".key", pair.key_pem);
    if (name == "client") client_ = pair;
  }

  TempFolder folder_;
  transport::TestAuthority authority_;
  transport::TestAuthority stranger_;
  transport::TlsCredentials client_;
};

StoreKey Key(uint64_t number) {
  StoreKey key{.tenant = 5};
  base::Rng rng(number + 1);
  for (size_t at = 0; at < key.chain.size(); at += 8) base::StoreLe(&key.chain[at], rng.Next());
  return key;
}

Slice Object(uint64_t number, size_t bytes) {
  std::vector<std::byte> out(bytes);
  base::Rng rng(number + 77);
  for (std::byte& byte : out) byte = static_cast<std::byte>(rng.Next());
  return Slice::Own(std::move(out));
}

class RedisTlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!RedisServerInstalled()) GTEST_SKIP() << "redis-server is not installed (package redis-server)";
  }
  void Start(const RedisTls& tls, const std::vector<std::string>& arguments = {}) {
    auto server = RedisProcess::Start(arguments, false, &tls);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
  }
  // As a flag would make it.
  base::Result<StoreStack> Open(const std::string& options, const std::string& scheme = "rediss") const {
    const std::string spec = scheme + "://" + server_->address().ToString() + "?" + options;
    return CreateStore(std::span(&spec, 1), {});
  }
  std::string Ca() const { return "ca_file=" + certificates_.path("ca.pem"); }
  std::string Pair(const std::string& name) const {
    return "&cert_file=" + certificates_.path(name + ".pem") +
           "&key_file=" + certificates_.path(name + ".key");
  }
  // What a put and a read of it come to.
  static base::Status Use(Store& store) {
    KVPLANE_RETURN_IF_ERROR(store.Put(Key(1), {.quality = kLossless}, Object(1, 300'000), {}, Soon()));
    const ReadRequest request{Key(1), 0, 0};
    const auto read = std::move(store.Read({&request, 1}, Soon()).front());
    if (!read.ok()) return read.status();
    const bool same = std::ranges::equal(read->bytes(), Object(1, 300'000).bytes());
    return same ? base::Status::Ok() : base::Internal("other bytes");
  }
  base::Status Using(const std::string& options, const std::string& scheme = "rediss") const {
    const auto stack = Open(options, scheme);
    return stack.ok() ? Use(*stack->store) : stack.status();
  }

  const CertificateFolder certificates_;
  std::unique_ptr<RedisProcess> server_;
};

TEST_F(RedisTlsTest, ObjectsGoOverTlsUnit) {
  Start(certificates_.Server());
  const auto stack = Open(Ca());
  ASSERT_TRUE(stack.ok()) << stack.status().ToString();
  const base::Status used = Use(*stack->store);
  EXPECT_TRUE(used.ok()) << used.ToString();
  EXPECT_EQ(stack->store->name(), "rediss://" + server_->address().ToString());
}

TEST_F(RedisTlsTest, ServersThatProveNothingAreRefusedSafety) {
  Start(certificates_.Server());
  EXPECT_EQ(Using("ca_file=" + certificates_.path("other-ca.pem")).code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(Using("prefix=x").code(), StatusCode::kPermissionDenied) << "no authority of the system's";
  EXPECT_EQ(Using("prefix=x", "redis").code(), StatusCode::kUnavailable) << "TLS answers no plain client";
}

TEST_F(RedisTlsTest, ClientCertificatesUnit) {
  Start(certificates_.Server("server", /*client_certificates=*/true));
  const base::Status used = Using(Ca() + Pair("client"));
  EXPECT_TRUE(used.ok()) << used.ToString();
  EXPECT_FALSE(Using(Ca()).ok());
  EXPECT_FALSE(Using(Ca() + Pair("stranger")).ok());
}

TEST_F(RedisTlsTest, UsersAndPasswordsComeFromFilesUnit) {
  Start(certificates_.Server(), {"--user", "kv", "on", ">s3cret", "~kvplane:*", "+@all"});
  const std::string file = certificates_.path("password");
  std::ofstream(file) << "s3cret\n";
  const base::Status used = Using(Ca() + "&user=kv&password_file=" + file);
  EXPECT_TRUE(used.ok()) << used.ToString();
  std::ofstream(file) << "wrong\n";
  EXPECT_EQ(Using(Ca() + "&user=kv&password_file=" + file).code(), StatusCode::kPermissionDenied);
}

TEST_F(RedisTlsTest, FilesThatAreNoCertificatesAreRefusedSafety) {
  Start(certificates_.Server());
  std::ofstream(certificates_.path("junk.pem")) << "no certificate\n";
  EXPECT_EQ(Using("ca_file=" + certificates_.path("junk.pem")).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Using("ca_file=" + certificates_.path("none.pem")).code(), StatusCode::kNotFound);
  EXPECT_EQ(Using(Ca() + "&cert_file=" + certificates_.path("client.pem")).code(),
            StatusCode::kInvalidArgument)
      << "without its key";
}

// A server that is restarted is used again: connections of before are gone with their keys.
TEST_F(RedisTlsTest, AServerThatComesBackIsUsedAgainSafety) {
  Start(certificates_.Server());
  const auto stack = Open(Ca());
  ASSERT_TRUE(stack.ok());
  ASSERT_TRUE(Use(*stack->store).ok());
  server_->Kill();
  EXPECT_FALSE(Use(*stack->store).ok());
  ASSERT_TRUE(server_->Restart().ok());
  const base::TimePoint limit = Soon();
  base::Status used = Use(*stack->store);
  while (!used.ok() && base::Clock::System().Now() < limit) used = Use(*stack->store);
  EXPECT_TRUE(used.ok()) << used.ToString();
}

TEST_F(RedisTlsTest, AClusterOverTlsUnit) {
  const RedisTls tls = certificates_.Server("server", /*client_certificates=*/true);
  const auto cluster = RedisCluster::Start({.masters = 3, .tls = &tls});
  ASSERT_TRUE(cluster.ok()) << cluster.status().ToString();
  const std::string spec =
      "rediss://" + (*cluster)->node(0).address().ToString() + "?" + Ca() + Pair("client");
  const auto stack = CreateStore(std::span(&spec, 1), {});
  ASSERT_TRUE(stack.ok()) << stack.status().ToString();
  std::map<RedisAddress, size_t> used;
  std::vector<ReadRequest> requests;
  for (uint64_t number = 0; number < 60; ++number) {
    const base::Status put =
        stack->store->Put(Key(number), {.quality = kLossless}, Object(number, 2000 + number), {}, Soon());
    ASSERT_TRUE(put.ok()) << put.ToString();
    const auto owner = (*cluster)->OwnerOf(RedisSlot(RedisKey("kvplane", Key(number))), 1);
    ASSERT_TRUE(owner.ok()) << owner.status().ToString();
    ++used[*owner];
    requests.push_back({Key(number), 0, 0});
  }
  EXPECT_EQ(used.size(), 3u) << "on every node";
  const auto reads = stack->store->Read(requests, Soon());
  for (uint64_t number = 0; number < 60; ++number) {
    ASSERT_TRUE(reads[number].ok()) << reads[number].status().ToString();
    EXPECT_TRUE(std::ranges::equal(reads[number]->bytes(), Object(number, 2000 + number).bytes()));
  }
}

// The certificate is good, but for another name.
TEST_F(RedisTlsTest, CertificatesOfOtherHostsAreRefusedSafety) {
  RedisTls tls = certificates_.Server("localhost");
  tls.host = "localhost";
  Start(tls);
  const base::Status used = Using(Ca());
  EXPECT_TRUE(used.ok()) << used.ToString();
  const std::string spec = fmt::format("rediss://127.0.0.1:{}?{}", server_->address().port, Ca());
  const auto stack = CreateStore(std::span(&spec, 1), {});
  ASSERT_TRUE(stack.ok());
  EXPECT_EQ(Use(*stack->store).code(), StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace kvplane::store
