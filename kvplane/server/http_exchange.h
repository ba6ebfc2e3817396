// Exchange: one HTTP request and the answer to it, as a handler sees them; Handler: what answers requests.
//
// The server (http_server.h) implements it over a socket; tests implement it over a string. A handler may
// answer at once or keep the pointer and answer later from events of other threads, which it moves to the io
// thread with Post().
//
// Thread safety: Post() from any thread; everything else on the io thread only. Ownership: handlers share the
// exchange; it may outlive connection and server, and then does nothing.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string_view>

#include "kvplane/server/http_message.h"

namespace kvplane::server {

class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const HttpRequest& request() const = 0;

  // The whole answer. Either this or BeginStream ... End, once; later calls are ignored.
  virtual void Respond(HttpResponse response) = 0;
  // Sends the head; the body (head.body first) follows in Write calls of any size.
  virtual void BeginStream(HttpResponse head) = 0;
  virtual void Write(std::string_view bytes) = 0;
  virtual void End() = 0;
  // Closes the connection without a proper end, so that the client can tell a cut answer from a whole one.
  virtual void Abort() = 0;

  // The client is no longer there (or too slow for the limits): nothing written will arrive.
  virtual bool gone() const = 0;
  // Calls back once, on the io thread, if the client leaves before the answer is complete. One callback; a
  // later one replaces it.
  virtual void OnGone(std::function<void()> callback) = 0;

  // Bytes written by the handler and not yet taken by the socket, and a callback whenever they reach zero.
  virtual size_t buffered_bytes() const = 0;
  virtual void OnDrained(std::function<void()> callback) = 0;

  // Runs `task` on the io thread, in the order posted; dropped when the server has stopped.
  virtual void Post(std::function<void()> task) = 0;
};

// Called on the io thread for every complete request; must not block.
using Handler = std::function<void(std::shared_ptr<Exchange>)>;

}  // namespace kvplane::server
