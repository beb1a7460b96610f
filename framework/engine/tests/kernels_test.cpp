// Every kernel table against the scalar reference, bit for bit, and the reference against plain mathematics.
#include "engine/kernels/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "engine/forward.h"
#include "engine/kernels/exact.h"
#include "engine/packing.h"

namespace flex::engine {
namespace {

using Floats = std::vector<float>;

class Random {
public:
    explicit Random(unsigned seed) : engine_(seed) {}
    std::size_t below(std::size_t n) { return engine_() % n; }
    /// Mostly ordinary numbers; some are zero, tiny, subnormal, or large.
    float number() {
        switch (engine_() % 24) {
        case 0:
            return 0.0F;
        case 1:
            return -0.0F;
        case 2:
            return 1e-38F * unit_(engine_);
        case 3:
            return 1e-42F;
        case 4:
            return 3e4F * unit_(engine_);
        default:
            return 4.0F * unit_(engine_);
        }
    }
    Floats numbers(std::size_t count) {
        Floats out(count);
        for (float& x : out) x = number();
        return out;
    }
    std::uint32_t word() { return static_cast<std::uint32_t>(engine_()); }

private:
    std::mt19937 engine_;
    std::uniform_real_distribution<float> unit_{-1.0F, 1.0F};
};

bool same_bits(const Floats& a, const Floats& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class EveryTable : public ::testing::TestWithParam<const Kernels*> {
protected:
    const Kernels& table = *GetParam();
    const Kernels& reference = scalar_kernels();
};

INSTANTIATE_TEST_SUITE_P(Kernels, EveryTable, ::testing::ValuesIn(available_kernels()), [](const auto& info) {
    std::string name = info.param->name;
    std::erase(name, '-');
    return name;
});

/// A Q8_0 matrix as files have it and as kernels have it, and activations.
struct Q8Input {
    std::vector<std::byte> stored;
    Buffer<std::byte> packed;
    std::vector<Q8Block> x;
};

Buffer<std::byte> pack(const std::vector<std::byte>& stored, std::size_t rows, std::size_t columns) {
    auto packed = allocate<std::byte>(packed_bytes(rows, columns));
    for (std::size_t r = 0; r < rows; r += kPanelRows) {
        pack_panel(stored.data() + r * (columns / 32 * 34), std::min(kPanelRows, rows - r), columns,
                   packed.get() + r / kPanelRows * panel_bytes(columns));
    }
    return packed;
}

Q8Input q8_input(Random& random, std::size_t rows, std::size_t columns, std::size_t tokens, bool extreme) {
    Q8Input in;
    for (std::size_t block = 0; block < rows * columns / 32; ++block) {
        const std::uint16_t d = extreme ? static_cast<std::uint16_t>(random.word() % 0x7c00)
                                        : f32_to_f16(0.01F * random.number());
        in.stored.push_back(static_cast<std::byte>(d & 0xff));
        in.stored.push_back(static_cast<std::byte>(d >> 8));
        for (int i = 0; i < 32; ++i)
            in.stored.push_back(static_cast<std::byte>(extreme && random.below(2) ? 0x80 : random.word()));
    }
    in.packed = pack(in.stored, rows, columns);
    for (std::size_t i = 0; i < tokens * columns / 32; ++i) {
        Q8Block block{{}, random.number(), 0};
        for (std::int8_t& q : block.q) {
            const int value = static_cast<int>(random.below(255)) - 127;
            q = static_cast<std::int8_t>(extreme && random.below(2) ? (random.below(2) ? 127 : -127) : value);
            block.offset -= 128 * q;
        }
        in.x.push_back(block);
    }
    return in;
}

TEST_P(EveryTable, multiplies_q8_0_like_the_reference) {
    Random random(1);
    for (int round = 0; round < 400; ++round) {
        const std::size_t rows = 1 + random.below(40), columns = 32 * (1 + random.below(9)),
                          tokens = 1 + random.below(19);
        const Q8Input in = q8_input(random, rows, columns, tokens, round % 3 == 0);
        const std::size_t stride = rows + random.below(5);
        Floats expected(tokens * stride, -1.0F), got = expected;
        reference.matmul_q8_0(in.packed.get(), rows, columns, in.x.data(), tokens, expected.data(), stride);
        table.matmul_q8_0(in.packed.get(), rows, columns, in.x.data(), tokens, got.data(), stride);
        ASSERT_TRUE(same_bits(expected, got))
            << rows << " rows, " << columns << " columns, " << tokens << " tokens";
    }
}

TEST_P(EveryTable, multiplies_the_largest_bytes_without_saturating) {
    for (const int weight : {-128, -127, 127}) {
        for (const int activation : {-127, 127}) {
            const std::size_t columns = 64, rows = 17, tokens = 9;
            std::vector<std::byte> stored;
            for (std::size_t block = 0; block < rows * 2; ++block) {
                stored.insert(stored.end(), {std::byte{0x00}, std::byte{0x3c}}); // f16 1.0
                stored.insert(stored.end(), 32, static_cast<std::byte>(weight));
            }
            Q8Block block{{}, 1.0F, -128 * 32 * activation};
            std::fill_n(block.q, 32, static_cast<std::int8_t>(activation));
            const std::vector<Q8Block> x(tokens * 2, block);
            Floats y(tokens * rows);
            table.matmul_q8_0(pack(stored, rows, columns).get(), rows, columns, x.data(), tokens, y.data(),
                              rows);
            for (const float value : y) EXPECT_EQ(value, static_cast<float>(weight * activation * 64));
        }
    }
}

TEST_P(EveryTable, multiplies_floats_like_the_reference) {
    Random random(2);
    const auto compare = [&](auto member, std::size_t element) {
        for (int round = 0; round < 150; ++round) {
            const std::size_t rows = 1 + random.below(19), columns = 1 + random.below(150),
                              tokens = 1 + random.below(8);
            std::vector<std::byte> w(rows * columns * element);
            for (std::size_t i = 0; i < rows * columns; ++i) {
                const float value = random.number();
                const std::uint16_t half = f32_to_f16(value),
                                    bhalf = static_cast<std::uint16_t>(bits_of(value) >> 16);
                const void* from = element == 4                     ? static_cast<const void*>(&value)
                                   : member == &Kernels::matmul_f16 ? static_cast<const void*>(&half)
                                                                    : &bhalf;
                std::memcpy(w.data() + i * element, from, element);
            }
            const Floats x = random.numbers(tokens * columns);
            Floats expected(tokens * rows), got(tokens * rows);
            const auto scratch = allocate<std::byte>(scratch_bytes(columns));
            (reference.*member)(w.data(), rows, columns, x.data(), tokens, expected.data(), rows,
                                scratch.get());
            (table.*member)(w.data(), rows, columns, x.data(), tokens, got.data(), rows, scratch.get());
            ASSERT_TRUE(same_bits(expected, got))
                << rows << " rows, " << columns << " columns, " << tokens << " tokens";
        }
    };
    compare(&Kernels::matmul_f32, 4);
    compare(&Kernels::matmul_f16, 2);
    compare(&Kernels::matmul_bf16, 2);
}

TEST_P(EveryTable, quantizes_like_the_reference) {
    Random random(3);
    for (int round = 0; round < 2000; ++round) {
        const std::size_t n = 32 * (1 + random.below(5));
        Floats x = random.numbers(n);
        const float size = std::ldexp(1.0F, static_cast<int>(random.below(60)) - 50);
        for (float& v : x) v *= size;
        if (round % 7 == 0) { // values on the edge between two steps
            for (std::size_t i = 0; i < n; ++i)
                x[i] = (static_cast<float>(random.below(253)) - 126.0F) / 2.0F;
            x[0] = 127.0F;
        }
        std::vector<Q8Block> expected(n / 32), got(n / 32);
        reference.quantize(x.data(), n, expected.data());
        table.quantize(x.data(), n, got.data());
        ASSERT_EQ(std::memcmp(expected.data(), got.data(), n / 32 * sizeof(Q8Block)), 0);
    }
}

TEST_P(EveryTable, keeps_quantized_values_within_127_even_for_nan_and_infinity) {
    Random random(4);
    for (int round = 0; round < 200; ++round) {
        Floats x = random.numbers(32);
        x[random.below(32)] = std::nanf("");
        x[random.below(32)] = round % 2 ? INFINITY : -INFINITY;
        Q8Block block;
        table.quantize(x.data(), 32, &block);
        for (const int value : block.q) EXPECT_GE(value, -127);
    }
}

TEST_P(EveryTable, computes_elementwise_functions_like_the_reference) {
    Random random(5);
    for (int round = 0; round < 1000; ++round) {
        const std::size_t n = 1 + random.below(90);
        const Floats x = random.numbers(n), y = random.numbers(n);
        const auto compare = [&](auto run, const char* what) {
            Floats expected = x, got = x;
            run(reference, expected);
            run(table, got);
            ASSERT_TRUE(same_bits(expected, got)) << what << " of " << n;
        };
        compare([&](const Kernels& k, Floats& v) { k.rms_norm(v.data(), y.data(), n, 1e-6F, v.data()); },
                "rms_norm");
        compare([&](const Kernels& k, Floats& v) { k.add(v.data(), y.data(), n); }, "add");
        compare([&](const Kernels& k, Floats& v) { k.silu_multiply(v.data(), y.data(), n); },
                "silu_multiply");
        compare([&](const Kernels& k, Floats& v) { k.softmax(v.data(), n); }, "softmax");
        compare([&](const Kernels& k, Floats& v) { k.round_to_f16(v.data(), n, v.data()); }, "round_to_f16");
        compare([&](const Kernels& k, Floats& v) { k.round_to_bf16(v.data(), n, v.data()); },
                "round_to_bf16");
    }
}

TEST_P(EveryTable, attends_like_the_reference) {
    Random random(6);
    for (int round = 0; round < 400; ++round) {
        const std::size_t head_size = 2 * (1 + random.below(80)), count = 1 + random.below(40);
        const Floats query = random.numbers(head_size), keys = random.numbers(count * head_size);
        Floats expected(count), got(count);
        reference.scores(query.data(), keys.data(), count, head_size, 0.125F, expected.data());
        table.scores(query.data(), keys.data(), count, head_size, 0.125F, got.data());
        ASSERT_TRUE(same_bits(expected, got)) << head_size << ", " << count;
    }
}

TEST_P(EveryTable, attends_to_a_block_like_the_reference) {
    Random random(16);
    for (int round = 0; round < 300; ++round) {
        const std::size_t head_size = 1 + random.below(140), rows = 1 + random.below(26),
                          count = 1 + random.below(kBlockTokens), stride = kBlockTokens + random.below(40);
        const Floats queries = random.numbers(rows * head_size),
                     block = random.numbers(kBlockTokens * head_size);
        std::vector<const float*> query;
        for (std::size_t r = 0; r < rows; ++r) query.push_back(queries.data() + r * head_size);
        Floats expected(rows * stride, -1.0F), got = expected;
        reference.block_scores(query.data(), rows, block.data(), head_size, 0.125F, expected.data(), stride);
        table.block_scores(query.data(), rows, block.data(), head_size, 0.125F, got.data(), stride);
        ASSERT_TRUE(same_bits(expected, got)) << head_size << ", " << rows;

        Floats expected_sum = queries, got_sum = queries; // continues from what is there
        std::vector<float*> expected_rows, got_rows;
        for (std::size_t r = 0; r < rows; ++r) {
            expected_rows.push_back(expected_sum.data() + r * head_size);
            got_rows.push_back(got_sum.data() + r * head_size);
        }
        reference.add_weighted(expected.data(), stride, rows, block.data(), count, head_size,
                               expected_rows.data());
        table.add_weighted(expected.data(), stride, rows, block.data(), count, head_size, got_rows.data());
        ASSERT_TRUE(same_bits(expected_sum, got_sum)) << head_size << ", " << rows << ", " << count;
    }
}

TEST_P(EveryTable, converts_the_kv_cache_like_the_reference) {
    Random random(17);
    for (int round = 0; round < 300; ++round) {
        const std::size_t n = 32 * (1 + random.below(4)), odd = n - random.below(31);
        const Floats x = random.numbers(n);
        std::vector<std::uint16_t> expected(n), got(n);
        reference.narrow_f16(x.data(), odd, expected.data());
        table.narrow_f16(x.data(), odd, got.data());
        ASSERT_EQ(expected, got);
        Floats wide(n * kBlockTokens), got_wide = wide;
        reference.widen_f16(expected.data(), odd, wide.data());
        table.widen_f16(expected.data(), odd, got_wide.data());
        ASSERT_TRUE(same_bits(wide, got_wide));

        std::vector<std::int8_t> q(n * kBlockTokens);
        for (std::int8_t& value : q) value = static_cast<std::int8_t>(random.word());
        std::vector<std::uint16_t> scale(n); // n / 32 * 32 tokens
        for (std::uint16_t& value : scale) value = f32_to_f16(0.01F * random.number());
        reference.widen_q8(q.data(), scale.data(), n, wide.data());
        table.widen_q8(q.data(), scale.data(), n, got_wide.data());
        ASSERT_TRUE(same_bits(wide, got_wide));
        reference.widen_q8_columns(q.data(), scale.data(), n, wide.data());
        table.widen_q8_columns(q.data(), scale.data(), n, got_wide.data());
        ASSERT_TRUE(same_bits(wide, got_wide));
    }
}

// ---- the reference itself ----

TEST(Reference, exponential_is_within_two_units_of_the_last_place) {
    for (float x = -87.0F; x < 88.0F; x += 0.00731F) {
        const double exact = std::exp(static_cast<double>(x));
        EXPECT_NEAR(exact_exp(x) / exact, 1.0, 2.4e-7) << x;
    }
    EXPECT_LT(exact_exp(-INFINITY), 1.3e-38F);
    EXPECT_TRUE(std::isfinite(exact_exp(INFINITY)));
    EXPECT_TRUE(std::isfinite(exact_exp(std::nanf(""))));
}

TEST(Reference, half_precision_survives_the_round_trip_and_rounds_half_to_even) {
    for (std::uint32_t h = 0; h < 0x10000; ++h) {
        if ((h & 0x7c00) == 0x7c00) continue; // infinity and NaN
        EXPECT_EQ(f32_to_f16(f16_to_f32(static_cast<std::uint16_t>(h))), h);
    }
    for (std::uint32_t h = 0; h < 0x7bff; ++h) { // halfway to the next one
        const float a = f16_to_f32(static_cast<std::uint16_t>(h)),
                    b = f16_to_f32(static_cast<std::uint16_t>(h + 1));
        EXPECT_EQ(f32_to_f16((a + b) / 2), h % 2 == 0 ? h : h + 1);
    }
    EXPECT_EQ(f32_to_f16(65519.0F), 0x7bff);
    EXPECT_EQ(f32_to_f16(65520.0F), 0x7c00);
    EXPECT_EQ(f32_to_f16(-1e30F), 0xfc00);
}

TEST(Reference, q8_0_product_is_the_sum_of_its_dequantized_parts) {
    Random random(7);
    const std::size_t columns = 32 * 9, rows = 19;
    const Q8Input in = q8_input(random, rows, columns, 1, false);
    Floats y(rows);
    scalar_kernels().matmul_q8_0(in.packed.get(), rows, columns, in.x.data(), 1, y.data(), rows);
    for (std::size_t r = 0; r < rows; ++r) {
        double exact = 0, magnitude = 0;
        for (std::size_t i = 0; i < columns; ++i) {
            const std::byte* block = in.stored.data() + (r * columns + i) / 32 * 34;
            const Q8Block& x = in.x[i / 32];
            const double term = static_cast<double>(f16_to_f32(load_u16(block))) *
                                static_cast<std::int8_t>(block[2 + i % 32]) * static_cast<double>(x.scale) *
                                x.q[i % 32];
            exact += term;
            magnitude += std::fabs(term);
        }
        EXPECT_NEAR(y[r], exact, 1e-6 * magnitude);
    }
}

TEST(Packing, gives_every_row_back) {
    Random random(9);
    for (const std::size_t columns : {32u, 64u, 96u, 320u}) {
        const std::size_t rows = 37;
        const Q8Input in = q8_input(random, rows, columns, 1, false);
        Floats x(columns);
        for (std::size_t r = 0; r < rows; ++r) {
            unpack_row(in.packed.get(), r, columns, x.data());
            for (std::size_t i = 0; i < columns; ++i) {
                const std::byte* block = in.stored.data() + (r * columns + i) / 32 * 34;
                ASSERT_EQ(x[i], f16_to_f32(load_u16(block)) *
                                    static_cast<float>(static_cast<std::int8_t>(block[2 + i % 32])));
            }
        }
    }
}

TEST(Packing, of_any_part_is_that_part_of_the_whole) {
    Random random(10);
    const std::size_t rows = 37, columns = 96;
    const Q8Input in = q8_input(random, rows, columns, 1, false);
    TensorNeed need;
    need.type = TensorType::kQ8_0;
    need.rows = rows;
    need.columns = columns;
    const auto read = [&](std::uint64_t offset, std::span<std::byte> to) -> Status {
        if (offset + to.size() > in.stored.size()) return fail(ErrorCode::kIo, "beyond the tensor");
        std::copy_n(in.stored.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
        return {};
    };
    const std::size_t all = packed_bytes(rows, columns);
    for (int round = 0; round < 500; ++round) {
        const std::size_t at = random.below(all), size = 1 + random.below(all - at);
        std::vector<std::byte> part(size);
        ASSERT_TRUE(read_tensor(need, at, part, read).ok());
        ASSERT_EQ(std::memcmp(part.data(), in.packed.get() + at, size), 0) << at << " + " << size;
    }
}

TEST(Reference, softmax_is_a_distribution) {
    Random random(8);
    Floats x = random.numbers(100);
    scalar_kernels().softmax(x.data(), x.size());
    double sum = 0;
    for (const float p : x) sum += p;
    EXPECT_NEAR(sum, 1.0, 1e-6);
}

} // namespace
} // namespace flex::engine
