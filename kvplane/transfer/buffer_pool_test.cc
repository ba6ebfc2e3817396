#include "kvplane/transfer/buffer_pool.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::transfer {
namespace {

TEST(BufferPoolUnit, ReusesMemoryOfLikeSize) {
  BufferPool pool;
  const std::byte* first = nullptr;
  {
    BufferPool::Buffer buffer = pool.Take(100'000);
    first = buffer.bytes().data();
    EXPECT_EQ(buffer.size(), 100'000u);
    buffer.Shrink(10);
    EXPECT_EQ(buffer.bytes().size(), 10u);
  }
  EXPECT_NE(pool.Take(40'000).bytes().data(), first);  // less than half: not worth it
  EXPECT_EQ(pool.Take(60'000).bytes().data(), first);
  BufferPool::Buffer larger = pool.Take(100'001);
  EXPECT_NE(larger.bytes().data(), first);
  BufferPool::Buffer moved = std::move(larger);
  EXPECT_EQ(moved.size(), 100'001u);
}

TEST(BufferPoolProperty, LoansNeverOverlap) {
  BufferPool pool;
  std::vector<std::thread> threads;
  for (uint8_t id = 1; id <= 4; ++id) {
    threads.emplace_back([&pool, id] {
      base::Rng rng(id);
      std::vector<BufferPool::Buffer> held;
      for (int i = 0; i < 500; ++i) {
        held.push_back(pool.Take(rng.Below(60'000)));
        for (std::byte& byte : held.back().bytes()) byte = std::byte{id};
        if (held.size() < 5) continue;
        for (const std::byte byte : held.front().bytes()) ASSERT_EQ(byte, std::byte{id});
        held.erase(held.begin());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace kvplane::transfer
