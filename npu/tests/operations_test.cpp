// Every operation against the engine's scalar kernels, bit for bit, over random shapes; and nothing but y is
// written.
#include "npu/tests/shared.h"

namespace flex::npu::model::testing {
namespace {

using engine::Q8Block;
using engine::scalar_kernels;

constexpr std::size_t kArenaPages = 4200; // 16 MiB: what the tests' operands need, with room for gaps
constexpr std::uint64_t kRegionBytes = 6 << 20;

class Operations : public ::testing::Test {
protected:
    /// Memory is as it was, but for these rows.
    struct Written {
        flex_npu_operand operand;
        std::uint64_t rows, columns;
    };
    flex_npu_result run(Npu& npu, Operands& operands, const flex_npu_command& c, const Written& written) {
        std::vector<std::byte> before(npu.bus.all().begin(), npu.bus.all().end());
        TestJob job;
        job.regions.push_back(operands.region().abi());
        job.commands.push_back(c);
        const flex_npu_result result = npu.run(job);
        const std::uint64_t stride = written.operand.stride == 0 ? written.columns : written.operand.stride;
        for (std::uint64_t r = 0; r < written.rows; ++r) {
            for (std::uint64_t i = 0; i < written.columns * 4; ++i) {
                const auto at = operands.region().address_of(written.operand.offset + r * stride * 4 + i);
                before[at - ArenaBus::kBase] = *npu.bus.at(at);
            }
        }
        EXPECT_TRUE(std::ranges::equal(before, npu.bus.all())) << "something besides the result was written";
        return result;
    }
    Random random{7};
};

#define EXPECT_OK(result)                                                                                    \
    EXPECT_EQ((result).status, static_cast<std::uint32_t>(FLEX_NPU_OK)) << "of command " << (result).command

TEST_F(Operations, matmul_gives_the_bits_of_the_scalar_kernels) {
    for (int round = 0; round < 60; ++round) {
        Npu npu(kArenaPages, {.cores = 1 + random.below(3)});
        Operands operands(npu, random, kRegionBytes);
        const std::size_t tokens = 1 + random.below(round % 5 == 0 ? 700 : 20);
        const std::size_t rows = 1 + random.below(200),
                          columns = 32 * (1 + random.below(tokens > 100 ? 40 : 20));
        const auto w = random.matrix(rows, columns);
        const Floats x = random.numbers(tokens * columns), z = random.numbers(tokens * rows);
        Floats expected(tokens * rows), y = random.numbers(tokens * rows);
        std::vector<Q8Block> activations(tokens * columns / 32);
        scalar_kernels().quantize(x.data(), x.size(), activations.data());
        scalar_kernels().matmul_q8_0(w.data(), rows, columns, activations.data(), tokens, expected.data(),
                                     rows);

        flex_npu_command c = command(FLEX_NPU_MATMUL, static_cast<std::uint32_t>(tokens));
        c.rows = static_cast<std::uint32_t>(rows);
        c.columns = static_cast<std::uint32_t>(columns);
        c.flags = std::array<std::uint32_t, 3>{0, FLEX_NPU_ACCUMULATE, FLEX_NPU_GATE}[round % 3];
        c.w = operands.bytes(w, 64);
        c.x = operands.floats(x, tokens);
        c.y = operands.floats(y, tokens);
        if (c.flags == FLEX_NPU_ACCUMULATE) {
            scalar_kernels().add(y.data(), expected.data(), y.size());
            expected = y;
        } else if (c.flags == FLEX_NPU_GATE) {
            c.z = operands.floats(z, tokens);
            Floats gate = z;
            scalar_kernels().silu_multiply(gate.data(), expected.data(), gate.size());
            expected = gate;
        }
        const flex_npu_result result = run(npu, operands, c, {c.y, tokens, rows});
        EXPECT_OK(result);
        EXPECT_EQ(result.macs, tokens * rows * columns);
        ASSERT_TRUE(same_bits(operands.read(c.y, tokens, rows), expected))
            << tokens << " tokens, " << rows << " rows, " << columns << " columns, flags " << c.flags;
    }
}

TEST_F(Operations, matmul_takes_the_widest_matrix_and_the_most_tokens) {
    for (const auto& [tokens, rows, columns] :
         {std::array<std::uint32_t, 3>{21, 33, FLEX_NPU_COLUMNS_MAX}, {FLEX_NPU_COUNT_MAX, 70, 32}}) {
        Npu npu(kArenaPages);
        Operands operands(npu, random, kRegionBytes);
        const auto w = random.matrix(rows, columns);
        const Floats x = random.numbers(std::size_t{tokens} * columns);
        Floats expected(tokens * rows);
        std::vector<Q8Block> activations(x.size() / 32);
        scalar_kernels().quantize(x.data(), x.size(), activations.data());
        scalar_kernels().matmul_q8_0(w.data(), rows, columns, activations.data(), tokens, expected.data(),
                                     rows);
        flex_npu_command c = command(FLEX_NPU_MATMUL, tokens);
        c.rows = rows;
        c.columns = columns;
        c.w = operands.bytes(w, 64);
        c.x = operands.floats(x, tokens);
        c.y = operands.place(4, tokens, rows);
        EXPECT_OK(run(npu, operands, c, {c.y, tokens, rows}));
        EXPECT_TRUE(same_bits(operands.read(c.y, tokens, rows), expected));
    }
}

TEST_F(Operations, embed_widens_the_rows_that_are_asked_for) {
    for (int round = 0; round < 40; ++round) {
        Npu npu(kArenaPages);
        Operands operands(npu, random, kRegionBytes);
        const std::size_t tokens = 1 + random.below(40), rows = 1 + random.below(100),
                          columns = 32 * (1 + random.below(12));
        const auto w = random.matrix(rows, columns);
        std::vector<std::uint32_t> ids(tokens);
        Floats expected(tokens * columns);
        for (std::size_t t = 0; t < tokens; ++t) {
            ids[t] = random.below(rows);
            engine::unpack_row(w.data(), ids[t], columns, &expected[t * columns]);
        }
        flex_npu_command c = command(FLEX_NPU_EMBED, static_cast<std::uint32_t>(tokens));
        c.rows = static_cast<std::uint32_t>(rows);
        c.columns = static_cast<std::uint32_t>(columns);
        c.w = operands.bytes(w, 64);
        c.x = operands.bytes(ids, 4);
        c.y = operands.place(4, tokens, columns);
        EXPECT_OK(run(npu, operands, c, {c.y, tokens, columns}));
        ASSERT_TRUE(same_bits(operands.read(c.y, tokens, columns), expected));
    }
}

TEST_F(Operations, rows_are_normed_added_gated_and_weighed_as_by_the_scalar_kernels) {
    const engine::Kernels& k = scalar_kernels();
    for (int round = 0; round < 80; ++round) {
        Npu npu(kArenaPages);
        Operands operands(npu, random, kRegionBytes);
        const std::size_t tokens = 1 + random.below(40), n = 1 + random.below(round % 10 == 0 ? 20000 : 300);
        const Floats x = random.numbers(tokens * n), w = random.numbers(n);
        Floats y = random.numbers(tokens * n);
        flex_npu_command c{};
        c.count = static_cast<std::uint32_t>(tokens);
        c.columns = static_cast<std::uint32_t>(n);
        c.scalar = std::bit_cast<std::uint32_t>(1e-6F);
        c.op = std::array<std::uint32_t, 4>{FLEX_NPU_RMS_NORM, FLEX_NPU_SOFTMAX, FLEX_NPU_ADD,
                                            FLEX_NPU_SILU_MULTIPLY}[round % 4];
        c.x = operands.floats(x, tokens);
        c.y = operands.floats(y, tokens);
        c.w = operands.floats(w, 1);
        const bool in_place = c.op == FLEX_NPU_RMS_NORM && random.coin();
        if (in_place) c.y = c.x;
        for (std::size_t t = 0; t < tokens; ++t) {
            float* row = &y[t * n];
            if (c.op == FLEX_NPU_RMS_NORM) k.rms_norm(&x[t * n], w.data(), n, 1e-6F, row);
            if (c.op == FLEX_NPU_SOFTMAX) k.softmax(row, n);
            if (c.op == FLEX_NPU_ADD) k.add(row, &x[t * n], n);
            if (c.op == FLEX_NPU_SILU_MULTIPLY) k.silu_multiply(row, &x[t * n], n);
        }
        EXPECT_OK(run(npu, operands, c, {c.y, tokens, n}));
        ASSERT_TRUE(same_bits(operands.read(c.y, tokens, n), y)) << "op " << c.op << ", " << n << " columns";
    }
}

TEST_F(Operations, rope_rotates_the_pairs_of_the_first_dimensions) {
    for (int round = 0; round < 40; ++round) {
        Npu npu(kArenaPages);
        Operands operands(npu, random, kRegionBytes);
        const std::size_t tokens = 1 + random.below(8), size = 2 * (1 + random.below(80)),
                          pairs = 1 + random.below(size / 2);
        const std::size_t heads = round % 20 == 0 ? 400 : 1 + random.below(12);
        const Floats cos = random.numbers(tokens * pairs), sin = random.numbers(tokens * pairs);
        Floats y = random.numbers(tokens * heads * size);
        flex_npu_command c = command(FLEX_NPU_ROPE, static_cast<std::uint32_t>(tokens));
        c.heads = static_cast<std::uint16_t>(heads);
        c.head_size = static_cast<std::uint16_t>(size);
        c.columns = static_cast<std::uint32_t>(pairs);
        c.flags = random.coin() ? FLEX_NPU_NEIGHBOURS : 0;
        c.y = operands.floats(y, tokens);
        c.z = operands.floats(cos, tokens);
        c.w = operands.floats(sin, tokens);
        for (std::size_t i = 0; i < tokens * heads * pairs; ++i) {
            const std::size_t t = i / (heads * pairs), p = i % pairs;
            float* const head = &y[i / pairs * size];
            float& a = c.flags != 0 ? head[2 * p] : head[p];
            float& b = c.flags != 0 ? head[2 * p + 1] : head[p + pairs];
            const float was = a;
            a = was * cos[t * pairs + p] - b * sin[t * pairs + p];
            b = was * sin[t * pairs + p] + b * cos[t * pairs + p];
        }
        EXPECT_OK(run(npu, operands, c, {c.y, tokens, heads * size}));
        ASSERT_TRUE(same_bits(operands.read(c.y, tokens, heads * size), y));
    }
}

} // namespace
} // namespace flex::npu::model::testing
