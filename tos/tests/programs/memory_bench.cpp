/*
 * Gets and gives back Flex-Mem, as /data/memory.command says ("NUMBER BYTES"), and writes what it took to /data/memory.result
 * ("NUMBER alloc_ns free_ns", or "NUMBER errno 0" when there was not enough). For tests/bench/memory_versus_contiguous.cpp.
 */
#include "abi/syscall.h"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

namespace {

using Clock = std::chrono::steady_clock;

unsigned long long since(Clock::time_point start) {
    return static_cast<unsigned long long>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
}

bool read_command(unsigned& number, unsigned long long& bytes) {
    char text[64] = {};
    const int file = open("/data/memory.command", O_RDONLY);
    if (file < 0) return false;
    const ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    return got > 0 && std::sscanf(text, "%u %llu", &number, &bytes) == 2;
}

void write_result(const char* text, int length) {
    const int file = open("/data/memory.result.new", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, text, static_cast<size_t>(length)) != length) std::puts("cannot write the result");
    close(file);
    if (std::rename("/data/memory.result.new", "/data/memory.result") != 0) std::puts("cannot rename the result");
}

} // namespace

int main() {
    for (unsigned last = 0;;) {
        unsigned number = 0;
        unsigned long long bytes = 0;
        if (!read_command(number, bytes) || number == last) {
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            continue;
        }
        last = number;
        char text[96];
        const auto start = Clock::now();
        const long address = syscall(FLEX_SYS_MEM_ALLOC, bytes);
        const auto got = since(start);
        int length = std::snprintf(text, sizeof text, "%u %d 0\n", number, errno);
        if (address > 0) {
            const auto freeing = Clock::now();
            const long freed = syscall(FLEX_SYS_MEM_FREE, address, bytes);
            length = std::snprintf(text, sizeof text, "%u %llu %llu\n", number, got, freed == 0 ? since(freeing) : 0);
        }
        write_result(text, length);
    }
}
