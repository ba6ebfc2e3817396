// MetricsEndpoint: GET /metrics and GET /health for a process that serves no other HTTP.
//
// Thread safety: Create and the destructor from one thread. `render` is called on the endpoint's own thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "kvplane/base/status.h"
#include "kvplane/server/api_auth.h"
#include "kvplane/server/http_server.h"

namespace kvplane::cli {

class MetricsEndpoint {
 public:
  // `address` is HOST:PORT with a numeric host; port 0 lets the system choose. With `auth` /metrics asks for
  // the token.
  static base::Result<std::unique_ptr<MetricsEndpoint>> Create(const std::string& address,
                                                               server::ApiAuth auth, bool insecure,
                                                               std::function<std::string()> render);
  ~MetricsEndpoint();
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;

  std::string address() const;  // with the real port

 private:
  MetricsEndpoint(server::ApiAuth auth, std::function<std::string()> render)
      : auth_(std::move(auth)), render_(std::move(render)) {}
  server::HttpResponse Answer(const server::HttpRequest& request) const;

  const server::ApiAuth auth_;
  const std::function<std::string()> render_;
  std::string host_;
  std::unique_ptr<server::HttpServer> http_;
  std::thread thread_;
};

}  // namespace kvplane::cli
