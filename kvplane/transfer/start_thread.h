// Starts a thread where the process may be at its limit of them: what one connection needs must not end a
// node.
#pragma once

#include <system_error>
#include <thread>
#include <utility>

#include "kvplane/base/status.h"

namespace kvplane::transfer {

// kResourceExhausted: the system gives no thread; `thread` is as it was.
template <typename Body>
base::Status StartThread(std::thread& thread, Body&& body) {
  try {
    thread = std::thread(std::forward<Body>(body));
  } catch (const std::system_error& error) {
    return base::ResourceExhausted("no thread for it: {}", error.what());
  }
  return base::Status::Ok();
}

}  // namespace kvplane::transfer
