/*
 * One family of system calls at a time, as /data/command says. Prints "NAME: good" or "NAME: BAD ..." for
 * each promise, "done" at the end. Runs in S-EL0; the host's system test reads the lines.
 */
#include "npu_checks.hpp"

#include "abi/frame.h"
#include "abi/syscall.h"

#include <arpa/inet.h>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <functional>
#include <map>
#include <netinet/in.h>
#include <poll.h>
#include <string>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

constexpr size_t kMega = 1 << 20;

void check(const char* name, bool good) { std::printf("%s: %s\n", name, good ? "good" : "BAD"); }

template <class... Args> long flex(long number, Args... args) { return syscall(number, args...); }

uint64_t now_us() {
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                     std::chrono::steady_clock::now().time_since_epoch())
                                     .count());
}

flex_memory_info memory_info() {
    flex_memory_info info = {};
    if (flex(FLEX_SYS_MEMORY_INFO, &info) != 0) std::puts("memory info: BAD");
    return info;
}

bool all_bytes(const unsigned char* at, size_t bytes, unsigned char value) {
    for (size_t i = 0; i < bytes; i++) {
        if (at[i] != value) return false;
    }
    return true;
}

/* ---- Flex-Mem ---- */

void flex_memory() {
    const flex_memory_info before = memory_info();
    const uint64_t start = now_us();
    auto* a = reinterpret_cast<unsigned char*>(flex(FLEX_SYS_MEM_ALLOC, 64 * kMega));
    const uint64_t allocated = now_us();
    check("alloc is 2 MiB aligned",
          a != reinterpret_cast<unsigned char*>(-1) && reinterpret_cast<uintptr_t>(a) % (2 * kMega) == 0);
    check("alloc is zero", all_bytes(a, 64 * kMega, 0));
    std::memset(a, 0x5a, 64 * kMega);
    const flex_memory_info held = memory_info();
    check("frames are adopted",
          held.frames[FLEX_FRAME_ADOPTED] >= before.frames[FLEX_FRAME_ADOPTED] + 64 * kMega / 4096);
    check("a part can be freed", flex(FLEX_SYS_MEM_FREE, a + 3 * kMega, 5 * kMega + 4096) == 0);
    check("the rest stays",
          all_bytes(a, 3 * kMega, 0x5a) && all_bytes(a + 8 * kMega + 4096, 56 * kMega - 4096, 0x5a));
    check("freeing twice is refused", flex(FLEX_SYS_MEM_FREE, a + 3 * kMega, 4096) == -1 && errno == EINVAL);
    check("heap is not freed so",
          flex(FLEX_SYS_MEM_FREE, std::malloc(100000), 4096) == -1 && errno == EINVAL);
    const uint64_t freeing = now_us();
    check("free in two parts", flex(FLEX_SYS_MEM_FREE, a, 3 * kMega) == 0 &&
                                   flex(FLEX_SYS_MEM_FREE, a + 8 * kMega + 4096, 56 * kMega - 4096) == 0);
    const uint64_t freed = now_us();
    const flex_memory_info after = memory_info();
    check("frames are given back",
          after.frames[FLEX_FRAME_ADOPTED] <= before.frames[FLEX_FRAME_ADOPTED] + 2048);
    check("mapped frames add up", after.mapped_frames <= before.mapped_frames + 64);
    check("absurd sizes are refused", flex(FLEX_SYS_MEM_ALLOC, 0) == -1 &&
                                          flex(FLEX_SYS_MEM_ALLOC, ~0ul) == -1 &&
                                          flex(FLEX_SYS_MEM_ALLOC, 1ul << 45) == -1);
    std::printf("figures: alloc 64 MiB %llu us, free 59 MiB %llu us\n",
                static_cast<unsigned long long>(allocated - start),
                static_cast<unsigned long long>(freed - freeing));
    /* More than there is: an error, and everything is as before. */
    errno = 0;
    check("more than there is is refused", flex(FLEX_SYS_MEM_ALLOC, 20000 * kMega) == -1 && errno == ENOMEM);
    check("and taken back", memory_info().mapped_frames <= before.mapped_frames + 64);
    std::vector<std::thread> threads;
    std::atomic<int> bad = 0;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([&bad, t] {
            for (int i = 0; i < 6; i++) {
                const size_t bytes = (static_cast<size_t>(t) * 3 + static_cast<size_t>(i)) * 700000 + 4096;
                auto* p = reinterpret_cast<unsigned char*>(flex(FLEX_SYS_MEM_ALLOC, bytes));
                if (p == reinterpret_cast<unsigned char*>(-1) || !all_bytes(p, bytes, 0)) {
                    bad++;
                    continue;
                }
                std::memset(p, t + 1, bytes);
                std::this_thread::yield();
                if (!all_bytes(p, bytes, static_cast<unsigned char>(t + 1))) bad++;
                if (flex(FLEX_SYS_MEM_FREE, p, (bytes + 4095) & ~4095ul) != 0) bad++;
            }
        });
    }
    for (auto& thread : threads) thread.join();
    check("threads allocate side by side", bad == 0);
}

void load() {
    const int fd = open("/store/load-test", O_RDONLY);
    check("store file opens", fd >= 0);
    struct stat state = {};
    fstat(fd, &state);
    const size_t bytes = static_cast<size_t>(state.st_size);
    const uint64_t start = now_us();
    auto* p = reinterpret_cast<unsigned char*>(flex(FLEX_SYS_MEM_LOAD, fd, 0, bytes));
    const uint64_t loaded = now_us();
    check("load", p != reinterpret_cast<unsigned char*>(-1));
    std::vector<unsigned char> piece(kMega);
    bool same = true;
    for (size_t at = 0; at < bytes; at += piece.size()) {
        const size_t part = std::min(piece.size(), bytes - at);
        size_t got = 0;
        while (got < part) {
            const ssize_t n = pread(fd, piece.data() + got, part - got, static_cast<off_t>(at + got));
            if (n <= 0) break;
            got += static_cast<size_t>(n);
        }
        same = same && got == part && std::memcmp(piece.data(), p + at, part) == 0;
    }
    check("loaded bytes are the file's", same);
    check("behind the end it is zero", all_bytes(p + bytes, (4096 - bytes % 4096) % 4096, 0));
    check("load at an odd offset is refused",
          flex(FLEX_SYS_MEM_LOAD, fd, 100, 4096) == -1 && errno == EINVAL);
    check("load of no file is refused", flex(FLEX_SYS_MEM_LOAD, 77, 0, 4096) == -1 && errno == EBADF);
    p[0] = static_cast<unsigned char>(~p[0]);
    check("freeing it", flex(FLEX_SYS_MEM_FREE, p, (bytes + 4095) & ~4095ul) == 0);
    std::printf("figures: load %zu KiB %llu us\n", bytes / 1024,
                static_cast<unsigned long long>(loaded - start));
    close(fd);
}

/* ---- Files ---- */

void files() {
    unlink("/data/a");
    unlink("/data/b");
    int fd = open("/data/a", O_RDWR | O_CREAT | O_TRUNC, 0600);
    check("create", fd >= 0);
    std::string text(200000, 'x');
    for (size_t i = 0; i < text.size(); i++) text[i] = static_cast<char>('a' + i % 23);
    size_t written = 0;
    while (written < text.size()) {
        const ssize_t n = write(fd, text.data() + written, text.size() - written);
        if (n <= 0) break;
        written += static_cast<size_t>(n);
    }
    check("write in pieces", written == text.size());
    check("position", lseek(fd, 0, SEEK_CUR) == 200000 && lseek(fd, -10, SEEK_END) == 199990 &&
                          lseek(fd, 5, SEEK_SET) == 5);
    char byte = 0;
    check("read at the position", read(fd, &byte, 1) == 1 && byte == text[5] && lseek(fd, 0, SEEK_CUR) == 6);
    check("pwrite and pread leave it", pwrite(fd, "Q", 1, 100) == 1 && pread(fd, &byte, 1, 100) == 1 &&
                                           byte == 'Q' && lseek(fd, 0, SEEK_CUR) == 6);
    struct stat state = {};
    check("fstat", fstat(fd, &state) == 0 && state.st_size == 200000 && S_ISREG(state.st_mode));
    check("truncate and sync",
          ftruncate(fd, 1000) == 0 && fsync(fd) == 0 && fstat(fd, &state) == 0 && state.st_size == 1000);
    close(fd);
    check("closed is closed", read(fd, &byte, 1) == -1 && errno == EBADF);
    check("rename", rename("/data/a", "/data/b") == 0 && stat("/data/a", &state) == -1 && errno == ENOENT &&
                        stat("/data/b", &state) == 0 && state.st_size == 1000);
    fd = open("/data/b", O_RDONLY);
    check("a read-only descriptor writes nothing", write(fd, "x", 1) == -1 && errno == EBADF);
    close(fd);
    bool listed = false;
    if (DIR* folder = opendir("/data")) {
        while (const dirent* entry = readdir(folder)) listed = listed || std::strcmp(entry->d_name, "b") == 0;
        closedir(folder);
    }
    check("listed", listed);
    check("unlink", unlink("/data/b") == 0 && unlink("/data/b") == -1 && errno == ENOENT);
    check("the store is read-only", open("/store/new", O_WRONLY | O_CREAT, 0600) == -1 && errno == EROFS &&
                                        unlink("/store/load-test") == -1);
    check("nothing else exists", open("/etc/passwd", O_RDONLY) == -1 &&
                                     open("/data/../store/load-test", O_RDONLY) == -1 &&
                                     open("/data/.x", O_RDONLY) == -1);
    errno = 0;
    check("a bad address is an error",
          open(reinterpret_cast<const char*>(0xffffff800e100000), O_RDONLY) == -1 && errno == EFAULT);
    fd = open("/store/load-test", O_RDONLY);
    check("a bad buffer is an error",
          read(fd, reinterpret_cast<void*>(0xffffff800e100000), 16) == -1 && errno == EFAULT);
    check("a read-only buffer is an error",
          read(fd, reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(&files) & ~7ul), 16) == -1 &&
              errno == EFAULT);
    close(fd);
    int last = 0, opened = 0;
    std::vector<int> many;
    while ((last = open("/store/load-test", O_RDONLY)) >= 0) many.push_back(last), opened++;
    check("descriptors run out with an error", errno == EMFILE && opened > 200);
    for (const int one : many) close(one);
}

/* ---- Sockets: echoes one connection that /data/command's test makes ---- */

void sockets() {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(9000);
    check("listen", bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
                        listen(listener, 5) == 0);
    std::puts("listening");
    std::fflush(stdout);
    pollfd wait = {listener, POLLIN, 0};
    check("poll times out", poll(&wait, 1, 30) == 0);
    timeval timeout = {0, 30000};
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    check("accept times out", accept(listener, nullptr, nullptr) == -1 && errno == EAGAIN);
    check("poll finds a connection", poll(&wait, 1, 20000) == 1 && (wait.revents & POLLIN) != 0);
    sockaddr_in peer = {};
    socklen_t length = sizeof peer;
    const int stream = accept(listener, reinterpret_cast<sockaddr*>(&peer), &length);
    check("accept",
          stream >= 0 && peer.sin_family == AF_INET && ntohl(peer.sin_addr.s_addr) == INADDR_LOOPBACK);
    char buffer[64] = {};
    ssize_t n = recv(stream, buffer, sizeof buffer, 0);
    check("receive", n == 5 && std::memcmp(buffer, "hello", 5) == 0);
    setsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    check("receive times out", recv(stream, buffer, sizeof buffer, 0) == -1 && errno == EAGAIN);
    fcntl(stream, F_SETFL, O_NONBLOCK);
    check("without blocking", recv(stream, buffer, sizeof buffer, 0) == -1 && errno == EAGAIN);
    fd_set writable;
    FD_ZERO(&writable);
    FD_SET(stream, &writable);
    timeval second = {1, 0};
    check("select for writing",
          select(stream + 1, nullptr, &writable, nullptr, &second) == 1 && FD_ISSET(stream, &writable));
    check("send", send(stream, "world", 5, MSG_NOSIGNAL) == 5);
    check("shutdown", shutdown(stream, SHUT_WR) == 0);
    close(stream);
    close(listener);
    check("no socket to the outside", socket(AF_INET6, SOCK_STREAM, 0) == -1);
}

/* ---- Keys, store, random numbers, time ---- */

std::string hex(const unsigned char* at, size_t bytes) {
    std::string text;
    for (size_t i = 0; i < bytes; i++) {
        char two[3];
        std::snprintf(two, sizeof two, "%02x", at[i]);
        text += two;
    }
    return text;
}

void secrets() {
    unsigned char a[32], b[32], c[32];
    check("device key", flex(FLEX_SYS_DEVICE_KEY, "label", 5, a) == 0 &&
                            flex(FLEX_SYS_DEVICE_KEY, "label", 5, b) == 0 &&
                            flex(FLEX_SYS_DEVICE_KEY, "other", 5, c) == 0);
    check("same label, same key", std::memcmp(a, b, 32) == 0 && std::memcmp(a, c, 32) != 0);
    std::printf("key of label: %s\n", hex(a, 32).c_str());
    check("long labels are refused", flex(FLEX_SYS_DEVICE_KEY, "label", 65, a) == -1 && errno == EINVAL);
    check("a bad label address is an error", flex(FLEX_SYS_DEVICE_KEY, 8, 5, a) == -1 && errno == EFAULT);
    static char store[FLEX_SECURE_STORE_BYTES];
    const long bytes = flex(FLEX_SYS_SECURE_STORE_READ, store, sizeof store);
    std::printf("store had: %.*s\n", static_cast<int>(bytes), store);
    std::string text = "generation " + std::to_string(bytes > 11 ? std::atoi(store + 11) + 1 : 1);
    const uint64_t start = now_us();
    check("store write", flex(FLEX_SYS_SECURE_STORE_WRITE, text.data(), text.size()) == 0);
    std::printf("figures: store write %llu us\n", static_cast<unsigned long long>(now_us() - start));
    check("store read back",
          flex(FLEX_SYS_SECURE_STORE_READ, store, sizeof store) == static_cast<long>(text.size()) &&
              std::memcmp(store, text.data(), text.size()) == 0);
    check("store too large is refused", flex(FLEX_SYS_SECURE_STORE_WRITE, store, sizeof store + 1) == -1);
    unsigned char random[2][1000];
    check("random", getrandom(random[0], 1000, 0) > 0 && getrandom(random[1], 256, 0) == 256 &&
                        std::memcmp(random[0], random[1], 200) != 0);
    std::printf("numbers: %s\n", hex(random[0], 8).c_str());
    timespec real = {};
    clock_gettime(CLOCK_REALTIME, &real);
    std::printf("real time: %lld\n", static_cast<long long>(real.tv_sec));
    check("time moves on", [] {
        const uint64_t before = now_us();
        usleep(20000);
        const uint64_t after = now_us();
        return after - before >= 20000 && after - before < 2000000;
    }());
}

/* ---- Memory protection ---- */

void protection() {
    check("no writable and executable map", mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED &&
                                                errno == EACCES);
    auto* p = static_cast<char*>(
        mmap(nullptr, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    p[0] = p[5 * 4096] = 1;
    check("data never becomes code", mprotect(p, 4096, PROT_READ | PROT_EXEC) == -1 && errno == EACCES);
    check("code never becomes writable",
          mprotect(reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(&protection) & ~4095ul), 4096,
                   PROT_READ | PROT_WRITE) == -1);
    check("none and back keeps the content", mprotect(p, 16 * 4096, PROT_NONE) == 0 &&
                                                 mprotect(p, 16 * 4096, PROT_READ | PROT_WRITE) == 0 &&
                                                 p[0] == 1 && p[5 * 4096] == 1);
    check("dont-need zeroes", madvise(p, 16 * 4096, MADV_DONTNEED) == 0 && p[0] == 0 && p[5 * 4096] == 0);
    check("unmap in the middle",
          munmap(p + 4096, 4096) == 0 && munmap(p + 4096, 4096) == 0 && p[2 * 4096] == 0);
    check("a syscall on the hole is an error", write(1, p + 4096, 1) == -1 && errno == EFAULT);
    const uint64_t start = now_us();
    for (int i = 0; i < 20000; i++) syscall(SYS_gettid);
    std::printf("figures: system call %.2f us\n", static_cast<double>(now_us() - start) / 20000);
}

/* ---- Reclaim ---- */

void reclaim() {
    std::atomic<long> second = 0;
    std::thread other([&second] {
        usleep(100000);
        second = flex(FLEX_SYS_RECLAIM_WAIT, 1000000ul) == -1 ? errno : 0;
    });
    check("reclaim wait times out", flex(FLEX_SYS_RECLAIM_WAIT, 300000000ul) == 0);
    other.join();
    check("one waits at a time", second == EBUSY);
    std::puts("waiting");
    std::fflush(stdout);
    const long bytes = flex(FLEX_SYS_RECLAIM_WAIT, 20000000000ul);
    std::printf("reclaim: %ld\n", bytes);
}

/* ---- Random system calls: nothing the program asks for may hurt the trusted OS ---- */

std::atomic<long> fuzz_calls = 0;
unsigned char* fuzz_arena;

uint64_t next_random(uint64_t& state) { /* xorshift64* (Vigna) */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1d;
}

uint64_t fuzz_argument(uint64_t& state) {
    const uint64_t interesting[] = {0,
                                    1,
                                    2,
                                    3,
                                    4,
                                    5,
                                    8,
                                    16,
                                    255,
                                    4096,
                                    65408,
                                    1 << 21,
                                    0x7fffffff,
                                    0xffffffff,
                                    ~0ull,
                                    ~4095ull,
                                    1ull << 62,
                                    0x7ffffff000,
                                    0xffffff800e100000,
                                    0xffffff8044000000,
                                    0x40000000,
                                    0x400000,
                                    8589934592};
    const uint64_t kind = next_random(state) % 8;
    if (kind < 3) return interesting[next_random(state) % (sizeof interesting / sizeof *interesting)];
    if (kind < 6) return reinterpret_cast<uint64_t>(fuzz_arena) + next_random(state) % (64 * 4096);
    if (kind == 6) return next_random(state) % 300;
    return next_random(state);
}

void fuzz_thread(uint64_t seed) {
    uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
    for (int i = 0; i < 3000; i++) {
        const uint64_t r = next_random(state) % 12;
        long number = static_cast<long>(next_random(state) % 460);
        if (r == 0) number = static_cast<long>(4096 + next_random(state) % 20);
        if (r == 1) number = static_cast<long>(next_random(state));
        uint64_t a[6];
        for (uint64_t& one : a) one = fuzz_argument(state);
        switch (number) {
        case 93:
        case 94:
        case 129:
        case 130:
        case 131:
        case 220:
            continue; /* they end or multiply it */
        case 98:
            if (a[3] == 0) continue;
            break; /* waits for ever, legitimately */
        case 57:
            if (a[0] < 3) continue; /* the last line shall be seen */
            break;
        case 72:
        case 73:
        case 101:
        case 115:
            continue;
        case 214:
        case 215:
        case 216:
        case 222:
        case 226:
        case 233:
        case 4097: /* only in the arena */
            a[0] = reinterpret_cast<uint64_t>(fuzz_arena) + next_random(state) % 64 * 4096;
            a[1] = next_random(state) % 80 * 4096 + next_random(state) % 2;
            break;
        case 4096:
            a[0] %= 8 * kMega;
            break;
        case FLEX_SYS_RECLAIM_WAIT:
            a[0] = 1000;
            break;
        }
        syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
        fuzz_calls++;
    }
}

void fuzz() {
    const size_t bytes = 256 * 4096;
    fuzz_arena = static_cast<unsigned char*>(
                     mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) +
                 96 * 4096;
    const uint64_t seed = now_us();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    for (uint64_t t = 0; t < 12; t++) std::thread(fuzz_thread, seed + t).detach();
    for (long before = -1; before != fuzz_calls;) {
        before = fuzz_calls;
        sleep(2);
    }
    std::printf("%ld calls\n", fuzz_calls.load());
    std::_Exit(0);
}

/* ---- Ends ---- */

[[gnu::noinline]] void deep(int level) {
    if (level > 0) {
        deep(level - 1);
        asm volatile("");
        return;
    }
    *reinterpret_cast<volatile int*>(0x123456789000) = 1;
}
void wild_pointer() { deep(3); }
void kernel_pointer() { *reinterpret_cast<volatile long*>(0xffffff800e200000) = 1; }
void undefined_instruction() { asm volatile("udf #7"); }
void privileged_instruction() { asm volatile("msr vbar_el1, xzr"); }
void write_text() { *reinterpret_cast<volatile char*>(&write_text) = 0; }
void execute_data() {
    static unsigned code[] = {0xd65f03c0};
    reinterpret_cast<void (*)()>(code)();
}
[[gnu::noinline]] int endless(volatile char* before) {
    volatile char here[1024];
    here[0] = before[0];
    return here[0] == 1 ? 0 : endless(here) + here[0];
}
void stack_overflow() {
    volatile char first[1] = {0};
    std::printf("%d\n", endless(first));
}
void aborts() { std::abort(); }
void exits() { std::exit(3); }
void spins() {
    std::puts("spinning");
    std::fflush(stdout);
    for (;;) asm volatile("");
}
void many_threads_then_exit() {
    for (int i = 0; i < 20; i++) {
        std::thread([i] {
            for (;;) {
                if (i % 2) usleep(1000);
            }
        }).detach();
    }
    usleep(50000);
    auto* p = reinterpret_cast<char*>(flex(FLEX_SYS_MEM_ALLOC, 30 * kMega));
    std::memset(p, 1, 30 * kMega);
    std::_Exit(5);
}

} // namespace

int main() {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    char command[64] = {};
    const int fd = open("/data/command", O_RDONLY);
    if (fd >= 0 && read(fd, command, sizeof command - 1) < 0) command[0] = '\0';
    close(fd);
    command[std::strcspn(command, "\n")] = '\0';
    const std::map<std::string, void (*)()> commands = {
        {"npu", npu_use},
        {"npu-recall", npu_recall},
        {"npu-exit", npu_exit},
        {"npu-turns", npu_take_turns},
        {"memory", flex_memory},
        {"load", load},
        {"files", files},
        {"sockets", sockets},
        {"secrets", secrets},
        {"protection", protection},
        {"reclaim", reclaim},
        {"fuzz", fuzz},
        {"wild-pointer", wild_pointer},
        {"kernel-pointer", kernel_pointer},
        {"undefined-instruction", undefined_instruction},
        {"privileged-instruction", privileged_instruction},
        {"write-text", write_text},
        {"execute-data", execute_data},
        {"stack-overflow", stack_overflow},
        {"abort", aborts},
        {"exit", exits},
        {"spin", spins},
        {"many-threads", many_threads_then_exit},
    };
    std::printf("command %s\n", command);
    std::fflush(stdout);
    const auto found = commands.find(command);
    if (found != commands.end()) found->second();
    std::puts("done");
    return 0;
}
