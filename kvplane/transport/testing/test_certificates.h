// Certificates for tests, made in memory: an authority of its own and what it signs. P-256 keys.
#pragma once

#include <memory>
#include <string>

#include "kvplane/transport/tls_context.h"

namespace kvplane::transport {

class TestAuthority {
 public:
  TestAuthority();
  ~TestAuthority();
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  // A certificate for `subject_alt_name` ("DNS:localhost,IP:127.0.0.1"), valid from `from_s` to `to_s`
  // seconds from now, with its key; ca_pem stays empty.
  TlsCredentials Sign(const std::string& subject_alt_name, long from_s = -60, long to_s = 3600) const;

  std::string pem() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvplane::transport
