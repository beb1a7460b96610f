// flex-hog: takes memory of the device's Linux, writes to it, reads it again and lets it go, at random.
//
//   flex-hog SEED LEAVE_MIB|all [steady]    until SIGTERM; then one line: "pages N wrong N killed N"
//
// It takes until LEAVE_MIB would be available, then lets some go and goes on; with `steady` it keeps what it
// has then. `all`: it does not look at what is left, so that Linux must kill it. What it has it marks and
// compares before it goes: a page that somebody else wrote to, or that lost what was in it on its way to
// another place, is wrong.
//
// The work is done by a child that Linux kills before anybody else when nothing is left; another one takes
// its place.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr std::size_t kPage = 4096, kMiB = 1 << 20;
constexpr std::size_t kMarks = 8; // in a page

volatile std::sig_atomic_t stopping = 0;

/// What both processes know.
struct Counts {
    std::uint64_t pages, wrong, killed;
};

std::uint64_t available_mib() {
    std::ifstream file("/proc/meminfo");
    for (std::string word; file >> word;) {
        std::uint64_t kib = 0;
        if (word == "MemAvailable:" && file >> kib) return kib / 1024;
    }
    return 0;
}

/// splitmix64's finalizer.
std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

class Block {
public:
    Block(std::size_t bytes, std::uint64_t key) : bytes_(bytes), key_(key) {
        void* map = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED) return;
        data_ = static_cast<std::uint64_t*>(map);
        for (std::size_t i = 0; i < marks() && stopping == 0; ++i, ++written_) *mark(i) = mix(key + i);
    }
    Block(Block&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_), key_(other.key_),
          written_(other.written_) {}
    Block& operator=(Block&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        std::swap(key_, other.key_);
        std::swap(written_, other.written_);
        return *this;
    }
    ~Block() {
        if (data_ != nullptr) ::munmap(data_, bytes_);
    }

    void check(Counts& counts) const {
        if (data_ == nullptr) return;
        std::size_t last = SIZE_MAX;
        for (std::size_t i = 0; i < written_; ++i) {
            if (*mark(i) == mix(key_ + i) || last == i / kMarks) continue;
            last = i / kMarks; // a page counts once
            ++counts.wrong;
        }
        counts.pages += written_ / kMarks;
    }

private:
    [[nodiscard]] std::size_t marks() const { return bytes_ / kPage * kMarks; }
    [[nodiscard]] std::uint64_t* mark(std::size_t i) const {
        return data_ + i * (kPage / kMarks / sizeof *data_);
    }

    std::uint64_t* data_ = nullptr;
    std::size_t bytes_;
    std::uint64_t key_;
    std::size_t written_ = 0; // marks
};

struct Appetite {
    std::uint64_t leave_mib = 0;
    bool all = false, steady = false;
};

void work(std::uint64_t seed, const Appetite& appetite, Counts& counts) {
    std::ofstream("/proc/self/oom_score_adj") << 1000 << std::flush;
    std::mt19937_64 random(seed);
    std::vector<Block> blocks;
    const auto let_go = [&] {
        const std::size_t which = random() % blocks.size();
        blocks[which].check(counts);
        std::swap(blocks[which], blocks.back());
        blocks.pop_back();
    };
    while (stopping == 0) {
        const std::uint64_t mib = 1 + random() % 32;
        if (appetite.all || available_mib() >= appetite.leave_mib + mib) {
            blocks.emplace_back(mib * kMiB, random());
        } else if (appetite.steady || blocks.empty()) {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        } else {
            // One, a few, or all.
            for (std::size_t n = random() % 16 == 0 ? blocks.size() : 1 + random() % 4;
                 n > 0 && !blocks.empty(); --n)
                let_go();
        }
    }
    while (!blocks.empty()) let_go();
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 3) return std::fprintf(stderr, "usage: flex-hog SEED LEAVE_MIB|all [steady]\n"), 2;
    std::uint64_t seed = std::strtoull(argv[1], nullptr, 10);
    const Appetite appetite{.leave_mib = std::strtoull(argv[2], nullptr, 10),
                            .all = std::strcmp(argv[2], "all") == 0,
                            .steady = argc > 3 && std::strcmp(argv[3], "steady") == 0};
    auto* counts = static_cast<Counts*>(
        ::mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    if (counts == MAP_FAILED) return 1;
    struct sigaction action {};
    action.sa_handler = [](int) { stopping = 1; };
    ::sigaction(SIGTERM, &action, nullptr); // without SA_RESTART: waitpid returns
    for (bool ended = false; !ended; ++seed) {
        const pid_t child = ::fork();
        if (child < 0) return 1;
        if (child == 0) {
            work(seed, appetite, *counts);
            ::_exit(0);
        }
        int status = 0;
        while (::waitpid(child, &status, 0) < 0 && errno == EINTR)
            if (stopping != 0) ::kill(child, SIGTERM);
        if (WIFSIGNALED(status) && WTERMSIG(status) != SIGTERM) ++counts->killed;
        ended = stopping != 0 || !WIFSIGNALED(status);
    }
    std::printf("pages %llu wrong %llu killed %llu\n", static_cast<unsigned long long>(counts->pages),
                static_cast<unsigned long long>(counts->wrong),
                static_cast<unsigned long long>(counts->killed));
    return 0;
}
