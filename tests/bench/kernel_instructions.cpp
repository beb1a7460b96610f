// Multiplies a Q8_0 matrix of 64 rows and 512 columns by some tokens, some times over, with one kernel table: what
// tests/bench/instructions_per_mac counts the instructions of.
//
//   kernel_instructions TABLE TOKENS TIMES
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "engine/forward.h"
#include "engine/kernels/kernels.h"
#include "engine/packing.h"

int main(int argc, char** argv) {
    using namespace flex::engine;
    constexpr std::size_t kRows = 64, kColumns = 512;
    if (argc != 4) return std::fprintf(stderr, "usage: kernel_instructions TABLE TOKENS TIMES\n"), 2;
    const Kernels* kernels = select_kernels(argv[1]);
    const std::size_t tokens = std::strtoul(argv[2], nullptr, 10), times = std::strtoul(argv[3], nullptr, 10);
    if (kernels == nullptr || tokens == 0 || tokens > 4096) return std::fprintf(stderr, "no such table here\n"), 2;
    const auto weights = allocate<std::byte>(packed_bytes(kRows, kColumns));
    const auto x = allocate<Q8Block>(tokens * kColumns / 32);
    const auto y = allocate<float>(tokens * kRows);
    std::memset(weights.get(), 1, packed_bytes(kRows, kColumns));
    std::memset(x.get(), 0, tokens * kColumns / 32 * sizeof(Q8Block));
    for (std::size_t i = 0; i < times; i++)
        kernels->matmul_q8_0(weights.get(), kRows, kColumns, x.get(), tokens, y.get(), kRows);
    return 0;
}
