// NoMoreThreads: while it lives the process can start no thread, as if it were at its limit of them.
#pragma once

#include <gtest/gtest.h>
#include <pthread.h>

#include <cstddef>

namespace kvplane::transfer {

// Threads get a stack larger than any address space, which the system refuses as it refuses one thread too
// many (EAGAIN). Not for tests that run side by side in one process.
class NoMoreThreads {
 public:
  NoMoreThreads() {
    EXPECT_EQ(pthread_getattr_default_np(&usual_), 0);
    pthread_attr_t endless;
    EXPECT_EQ(pthread_getattr_default_np(&endless), 0);
    EXPECT_EQ(pthread_attr_setstacksize(&endless, size_t{1} << 48), 0);
    EXPECT_EQ(pthread_setattr_default_np(&endless), 0);
    pthread_attr_destroy(&endless);
  }
  ~NoMoreThreads() {
    EXPECT_EQ(pthread_setattr_default_np(&usual_), 0);
    pthread_attr_destroy(&usual_);
  }
  NoMoreThreads(const NoMoreThreads&) = delete;
  NoMoreThreads& operator=(const NoMoreThreads&) = delete;

 private:
  pthread_attr_t usual_;
};

}  // namespace kvplane::transfer
