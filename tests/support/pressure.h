// What weighs on the device's memory while it answers, and what must hold all the same. For the system tests
// and the soak.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cli/attack/target.h"

namespace flex::test {

/// All frames of the monitor's table, as both sides count them.
struct FrameCount {
    std::uint64_t all = 0;    ///< in whatever state, by the monitor
    std::uint64_t linux_ = 0; ///< of them Linux may touch or never had: NORMAL, SHARED, RESERVED
    std::uint64_t lent = 0;   ///< by Linux' driver
    [[nodiscard]] bool adds_up() const { return all != 0 && linux_ + lent == all; }
};
[[nodiscard]] FrameCount count_frames(attack::Target& target);

/// Waits until both sides' counts agree on `all` frames (0: however many): those that change hands meanwhile
/// are seen twice or not at all. An empty text, or what is wrong.
[[nodiscard]] std::string lost_frames(attack::Target& target, std::uint64_t all = 0,
                                      std::chrono::seconds patience = std::chrono::seconds(20));

/// What `log`, the device's dmesg, has of lines that a kernel which is well does not write. That it killed
/// for want of memory is none.
[[nodiscard]] std::string kernel_complaints(const std::string& log);

/// flex-hog (linux/tests/hog.cpp) in the device's Linux.
class MemoryHog {
public:
    /// leave: MiB that it leaves available, or "all": nothing.
    MemoryHog(attack::Target& target, std::uint64_t seed, const std::string& leave);
    ~MemoryHog();
    MemoryHog(const MemoryHog&) = delete;
    MemoryHog& operator=(const MemoryHog&) = delete;

    struct Counts {
        std::uint64_t pages = 0, wrong = 0, killed = 0;
        std::string error; ///< it did not come to its end
    };
    Counts stop();

private:
    attack::Target& target_;
    bool running_ = false;
};

/// The sqlite3 shell in the device's Linux, writing batch after batch to a database that lies in Linux' own
/// memory (tmpfs).
class SqliteLoad {
public:
    explicit SqliteLoad(attack::Target& target);
    ~SqliteLoad();
    SqliteLoad(const SqliteLoad&) = delete;
    SqliteLoad& operator=(const SqliteLoad&) = delete;

    /// Stops it, has SQLite check the database, and compares each row with what it must be by now, computed
    /// here. Returns what is wrong, or nothing.
    std::string stop();
    [[nodiscard]] unsigned batches() const { return batches_; } ///< by the last stop()

private:
    attack::Target& target_;
    bool running_ = false;
    unsigned batches_ = 0;
};

/// Clients who ask several models at random and compare each answer with the one that this machine computes
/// natively.
class Crowd {
public:
    struct Model {
        std::string name; ///< of its package, which is sealed here
        std::filesystem::path gguf;
    };
    /// home: a folder of this machine for the native servers.
    Crowd(attack::Target& target, const std::filesystem::path& home, const std::vector<Model>& models,
          unsigned clients, std::uint64_t seed);
    ~Crowd(); // also removes the packages but that of Target::kModel
    Crowd(const Crowd&) = delete;
    Crowd& operator=(const Crowd&) = delete;

    struct Counts {
        std::uint64_t asked = 0;
        std::uint64_t right = 0;   ///< of them streamed or not
        std::uint64_t hung_up = 0; ///< by the client, in the middle; what had come was right
        std::uint64_t refused = 0; ///< before the first text, for want of memory: status 503
        std::uint64_t wrong = 0;   ///< other tokens, or an answer that broke off or never came
        std::string first_wrong;
        std::chrono::milliseconds longest{}; ///< of the right ones
    };
    [[nodiscard]] Counts counts() const;
    /// Nobody asks anything new until resume(). True: and nobody waits for an answer any more.
    bool pause();
    void resume();
    /// Ends all clients.
    Counts stop();

private:
    struct Question {
        attack::Query query;
        attack::Completion reference;
        bool large; ///< the model: a core of the device takes long
    };
    void ask_on(std::uint64_t seed);
    void ask(const attack::ApiClient& api, const Question& question, std::mt19937_64& random);

    attack::Target& target_;
    std::vector<Model> models_;
    std::vector<Question> questions_;
    std::vector<std::thread> clients_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    bool paused_ = false, stopping_ = false;
    unsigned asking_ = 0;
    Counts counts_;
};

} // namespace flex::test
