// RawClient: a blocking socket that sends exactly the bytes a test wants and returns what comes back.
//
// Thread safety: none. Every read has a deadline; running into it fails the read, never the process.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace kvplane::server::testing {

struct RawResponse {
  int status = 0;    // 0: no complete response came
  std::string head;  // status line and headers
  std::string body;  // decoded
  bool cut = false;  // the connection ended before the body did

  std::string Header(std::string_view name) const;  // "" when absent
};

class RawClient {
 public:
  explicit RawClient(uint16_t port);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool Send(std::string_view bytes);
  // Whatever arrives next; empty at the end of the stream or after `timeout_ms`.
  std::string ReadSome(int timeout_ms = 10'000);
  // One response; bytes after it are kept for the next call.
  RawResponse ReadResponse(int timeout_ms = 10'000);
  // True when the server closes the connection within the time; drops what it sends before.
  bool WaitForClose(int timeout_ms = 10'000);
  void ShutdownSend();
  void Close();
  bool connected() const { return socket_ >= 0; }

 private:
  int socket_ = -1;
  std::string buffer_;
};

// One request on a connection of its own, to localhost; a POST of JSON unless `extra_headers` say otherwise.
RawResponse Call(uint16_t port, std::string_view method, std::string_view target, std::string_view body = "",
                 std::string_view extra_headers = "", int timeout_ms = 60'000);

}  // namespace kvplane::server::testing
