#include "engine/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace flex::engine {
namespace {

TEST(ThreadPool, every_index_is_done_exactly_once_and_is_visible_afterwards) {
    for (const unsigned threads : {1u, 2u, 3u, 8u}) {
        ThreadPool pool(threads);
        EXPECT_EQ(pool.threads(), threads);
        for (std::size_t round = 0; round < 3000; ++round) {
            std::vector<int> done(round % 40, 0); // plain ints: the pool must publish them
            pool.run(done.size(), [&](std::size_t i, unsigned thread) {
                ASSERT_LT(thread, threads);
                ++done[i];
            });
            for (const int count : done) ASSERT_EQ(count, 1);
        }
    }
}

TEST(ThreadPool, wakes_workers_that_went_to_sleep) {
    ThreadPool pool(4);
    for (int round = 0; round < 20; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        std::atomic<int> sum = 0;
        pool.run(100, [&](std::size_t i, unsigned) { sum += static_cast<int>(i); });
        EXPECT_EQ(sum, 4950);
    }
}

TEST(ThreadPool, works_on_while_it_is_kept_awake_and_after_that_and_ends_in_between) {
    for (int round = 0; round < 20; ++round) {
        ThreadPool pool(4);
        for (const bool awake : {true, false, true, true}) {
            pool.stay_awake(awake);
            // Also longer than threads stay awake for: they sleep then, and are woken all the same.
            std::this_thread::sleep_for(std::chrono::milliseconds(round % 4 == 0 ? 10 : 0));
            std::atomic<int> sum = 0;
            pool.run(100, [&](std::size_t i, unsigned) { sum += static_cast<int>(i); });
            EXPECT_EQ(sum, 4950);
        }
    }
}

TEST(ThreadPool, calls_from_several_threads_take_turns) {
    ThreadPool pool(3);
    std::atomic<int> total = 0;
    std::vector<std::thread> callers;
    for (int c = 0; c < 4; ++c) {
        callers.emplace_back([&] {
            for (int round = 0; round < 300; ++round) {
                std::atomic<int> mine = 0;
                pool.run(17, [&](std::size_t, unsigned) { ++mine; });
                total += mine == 17 ? 1 : 0;
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(total, 1200);
}

TEST(ThreadPool, absurd_numbers_of_threads_are_clamped) {
    EXPECT_EQ(ThreadPool(0).threads(), 1u);
    EXPECT_LE(ThreadPool(100000).threads(), 64u);
}

} // namespace
} // namespace flex::engine
