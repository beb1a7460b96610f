/* Threads, locks, exceptions, memory and time of a static glibc program. Prints one line a promise. */
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

static void threads_share_work() {
    std::mutex mutex;
    long sum = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; t++) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < 1000; i++) {
                std::lock_guard lock(mutex);
                sum += t;
            }
        });
    }
    for (auto& thread : threads) thread.join();
    std::printf("threads: %s\n", sum == 28000 ? "good" : "BAD");
}

static void waiting_times_out() {
    std::mutex mutex;
    std::condition_variable changed;
    std::unique_lock lock(mutex);
    const auto start = std::chrono::steady_clock::now();
    const bool woken = changed.wait_for(lock, std::chrono::milliseconds(50), [] { return false; });
    const auto ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start)
            .count();
    std::printf("time-out: %s\n", !woken && ms >= 50 && ms < 1000 ? "good" : "BAD");
}

static void floating_point_survives() {
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 6; t++) {
        threads.emplace_back([&, t] {
            double x = t;
            for (int i = 0; i < 200000; i++) {
                x += 0.5;
                if (i % 5000 == 0) std::this_thread::yield();
            }
            if (x != t + 100000.0) wrong++;
        });
    }
    for (auto& thread : threads) thread.join();
    std::printf("floating point: %s\n", wrong == 0 ? "good" : "BAD");
}

static void memory_comes_and_goes() {
    bool good = true;
    for (int round = 0; round < 4; round++) {
        std::vector<std::string> many;
        for (int i = 0; i < 2000; i++) many.emplace_back(1000, static_cast<char>('a' + i % 26));
        for (int i = 0; i < 2000; i++) good = good && many[i][999] == 'a' + i % 26;
        std::vector<char> large(6 << 20);
        for (char c : large) good = good && c == 0;
        std::memset(large.data(), 1, large.size());
    }
    std::printf("memory: %s\n", good ? "good" : "BAD");
}

int main(int argc, char** argv) {
    std::printf("hello from S-EL0: %d argument, %s, pid %d, %u cores\n", argc, argv[0], getpid(),
                std::thread::hardware_concurrency());
    threads_share_work();
    waiting_times_out();
    floating_point_survives();
    memory_comes_and_goes();
    try {
        throw std::runtime_error("thrown");
    } catch (const std::exception& error) {
        std::printf("exceptions: %s\n", std::string(error.what()) == "thrown" ? "good" : "BAD");
    }
    return 7;
}
