// What it takes Linux to free clean page cache: reads a file into it, has it dropped, and tells the time. For `flexserve device bench`.
//
//   flex-page-cache FILE advise           the process that knows says so: posix_fadvise(POSIX_FADV_DONTNEED)
//   flex-page-cache FILE CGROUP           reclaim as under pressure: the file's size to CGROUP/memory.reclaim. CGROUP is a folder of
//                                         cgroup v2, which this process joins before it reads
//
// Prints "NANOSECONDS PAGES", the pages freed; fails when the file was not in memory as a whole, or when more than a 16th of it stays.
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "flex-page-cache: %s: %s\n", what.c_str(), std::strerror(errno));
    std::exit(1);
}

bool write_to(const std::string& file, const std::string& text) {
    const int fd = open(file.c_str(), O_WRONLY);
    const bool good = fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    if (fd >= 0) close(fd);
    return good;
}

void read_all(int fd) {
    std::vector<char> buffer(1 << 20);
    for (off_t at = 0;;) {
        const ssize_t got = pread(fd, buffer.data(), buffer.size(), at);
        if (got < 0) fail("read");
        if (got == 0) return;
        at += got;
    }
}

std::size_t resident_pages(int fd, std::size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) fail("mmap");
    std::vector<unsigned char> pages((bytes + 4095) / 4096);
    if (mincore(at, bytes, pages.data()) != 0) fail("mincore");
    munmap(at, bytes);
    std::size_t count = 0;
    for (const unsigned char page : pages) count += page & 1;
    return count;
}

} // namespace

int main(int argc, char** argv) {
    if (argc != 3) return std::fprintf(stderr, "usage: flex-page-cache FILE advise|CGROUP\n"), 2;
    const std::string how = argv[2];
    const bool advise = how == "advise";
    if (!advise && !write_to(how + "/cgroup.procs", std::to_string(getpid()))) fail(how);
    const int fd = open(argv[1], O_RDONLY);
    struct stat file {};
    if (fd < 0 || fstat(fd, &file) != 0) fail(argv[1]);
    const auto bytes = static_cast<std::size_t>(file.st_size);

    if (posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0) fail("fadvise");
    read_all(fd);
    const std::size_t before = resident_pages(fd, bytes);
    if (before < bytes / 4096) fail("the file is not in memory");

    const auto start = std::chrono::steady_clock::now();
    // memory.reclaim says EAGAIN when a little is missing at the end.
    if (advise ? posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0 : !write_to(how + "/memory.reclaim", std::to_string(bytes)) && errno != EAGAIN)
        fail("reclaim");
    const auto spent = std::chrono::steady_clock::now() - start;
    const std::size_t after = resident_pages(fd, bytes);
    if (after > before / 16) fail(std::to_string(after) + " pages stay in memory");
    std::printf("%lld %zu\n", static_cast<long long>(std::chrono::nanoseconds(spent).count()), before - after);
    return 0;
}
