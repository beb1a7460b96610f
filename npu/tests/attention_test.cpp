// The KV cache: what is stored, byte for byte, and attention over it against one query at a time with the
// scalar kernels.
#include <cmath>

#include "engine/kv_cache.h"
#include "npu/tests/shared.h"

namespace flex::npu::model::testing {
namespace {

using engine::KvLayout;
using engine::KvType;
using engine::Q8Block;
using engine::scalar_kernels;

constexpr std::size_t kTokens = FLEX_NPU_KV_BLOCK_TOKENS;

/// The cache as engine/kv_cache.h describes it, cell by cell.
struct Cache {
    KvLayout layout;
    std::size_t block_bytes;
    std::vector<std::byte> bytes;

    std::byte* part(std::uint32_t block, std::uint32_t layer, std::uint32_t head) {
        return bytes.data() + block * block_bytes + layout.offset(layer, head);
    }
    void store(std::uint32_t block, std::size_t slot, std::uint32_t layer, std::uint32_t head,
               const float* key, const float* value) {
        const std::size_t n = layout.head_size, scales = n / 32;
        std::byte* const keys = part(block, layer, head);
        std::byte* const values = keys + layout.part_bytes();
        for (std::size_t d = 0; d < n; ++d) {
            if (layout.type == KvType::kF32) {
                reinterpret_cast<float*>(keys)[slot * n + d] = key[d];
                reinterpret_cast<float*>(values)[slot * n + d] = value[d];
            } else if (layout.type == KvType::kF16) {
                reinterpret_cast<std::uint16_t*>(keys)[d * kTokens + slot] = engine::f32_to_f16(key[d]);
                reinterpret_cast<std::uint16_t*>(values)[slot * n + d] = engine::f32_to_f16(value[d]);
            }
        }
        if (layout.type != KvType::kQ8_0) return;
        std::vector<Q8Block> k(scales), v(scales);
        scalar_kernels().quantize(key, n, k.data());
        scalar_kernels().quantize(value, n, v.data());
        auto* const key_scales = reinterpret_cast<std::uint16_t*>(keys + kTokens * n);
        auto* const value_scales = reinterpret_cast<std::uint16_t*>(values + kTokens * n);
        for (std::size_t d = 0; d < n; ++d) {
            keys[d * kTokens + slot] = static_cast<std::byte>(k[d / 32].q[d % 32]);
            values[slot * n + d] = static_cast<std::byte>(v[d / 32].q[d % 32]);
        }
        for (std::size_t i = 0; i < scales; ++i) {
            key_scales[i * kTokens + slot] = engine::f32_to_f16(k[i].scale);
            value_scales[slot * scales + i] = engine::f32_to_f16(v[i].scale);
        }
    }
    /// One query over `count` positions of a list of blocks.
    Floats attend(const float* query, std::span<const std::uint32_t> list, std::size_t count,
                  std::uint32_t layer, std::uint32_t head, float factor) {
        const engine::Kernels& k = scalar_kernels();
        const std::size_t n = layout.head_size, blocks = (count + kTokens - 1) / kTokens;
        Floats scores(blocks * kTokens), wide(kTokens * n), out(n, 0.0F);
        for (std::size_t b = 0; b < blocks; ++b) {
            const std::byte* keys = part(list[b], layer, head);
            const auto* narrow = reinterpret_cast<const std::uint16_t*>(keys);
            if (layout.type == KvType::kF32) {
                k.scores(query, reinterpret_cast<const float*>(keys), std::min(kTokens, count - b * kTokens),
                         n, factor, &scores[b * kTokens]);
                continue;
            }
            if (layout.type == KvType::kF16)
                k.widen_f16(narrow, kTokens * n, wide.data());
            else
                k.widen_q8_columns(reinterpret_cast<const std::int8_t*>(keys), narrow + kTokens * n / 2, n,
                                   wide.data());
            k.block_scores(&query, 1, wide.data(), n, factor, &scores[b * kTokens], kTokens);
        }
        k.softmax(scores.data(), count);
        for (std::size_t b = 0; b < blocks; ++b) {
            const std::byte* values = part(list[b], layer, head) + layout.part_bytes();
            const auto* narrow = reinterpret_cast<const std::uint16_t*>(values);
            const std::size_t some = std::min(kTokens, count - b * kTokens);
            if (layout.type == KvType::kF32)
                std::memcpy(wide.data(), values, some * n * sizeof(float));
            else if (layout.type == KvType::kF16)
                k.widen_f16(narrow, some * n, wide.data());
            else
                k.widen_q8(reinterpret_cast<const std::int8_t*>(values), narrow + kTokens * n / 2, some * n,
                           wide.data());
            float* const to = out.data();
            k.add_weighted(&scores[b * kTokens], kTokens, 1, wide.data(), some, n, &to);
        }
        return out;
    }
};

/// Some sequences of one cache, and rows of them in one command.
class KvTest : public ::testing::Test {
protected:
    struct Sequence {
        std::vector<std::uint32_t> blocks;
        std::uint32_t length;
    };

    void make(KvType type, std::uint32_t head_size, std::uint32_t kv_heads, std::uint32_t longest) {
        layout = {type, 1 + random.below(3), kv_heads, head_size};
        layer = random.below(layout.layers);
        cache.layout = layout;
        cache.block_bytes = layout.block_bytes() + FLEX_NPU_PAGE * random.below(2);
        sequences.clear();
        list.clear();
        std::uint32_t blocks = 0;
        for (std::uint32_t s = 0; s < 1 + random.below(3); ++s) {
            const std::uint32_t length = 1 + random.below(longest);
            Sequence sequence{{}, length};
            for (std::uint32_t b = 0; b < (length + 31) / 32; ++b) sequence.blocks.push_back(blocks++);
            sequences.push_back(sequence);
        }
        std::vector<std::uint32_t> order(blocks);
        for (std::uint32_t b = 0; b < blocks; ++b) order[b] = b;
        for (std::uint32_t b = blocks; b > 1; --b) std::swap(order[b - 1], order[random.below(b)]);
        for (Sequence& sequence : sequences)
            for (std::uint32_t& b : sequence.blocks) b = order[b];
        cache.bytes.resize(blocks * cache.block_bytes);
        for (std::byte& b : cache.bytes) b = static_cast<std::byte>(random.word());
        npu.emplace(4200, DeviceOptions{.cores = 1 + random.below(3)});
        region.emplace(npu->pages, cache.bytes.size() + 192, random.coin());
        region->put(192, cache.bytes);
        operands.emplace(*npu, random, 2 << 20);
    }

    flex_npu_command kv_command(std::uint32_t op, const std::vector<flex_npu_row>& rows) {
        flex_npu_command c = command(op, static_cast<std::uint32_t>(rows.size()));
        c.kv_heads = static_cast<std::uint16_t>(layout.kv_heads);
        c.head_size = static_cast<std::uint16_t>(layout.head_size);
        c.kv_type = static_cast<std::uint16_t>(layout.type);
        c.layer = layer;
        c.layers = layout.layers;
        c.block_bytes = static_cast<std::uint32_t>(cache.block_bytes);
        c.block_list = static_cast<std::uint32_t>(list.size());
        c.w = {1, 0, 192};
        std::vector<std::uint32_t> words;
        for (const flex_npu_row& row : rows) words.insert(words.end(), {row.position, row.blocks});
        words.insert(words.end(), list.begin(), list.end());
        c.u.rows_of = operands->bytes(words, 4);
        return c;
    }
    flex_npu_result run(const flex_npu_command& c) {
        TestJob job;
        job.regions = {operands->region().abi(), region->abi()};
        job.commands = {c};
        return npu->run(job);
    }
    /// Every position of every sequence gets a key and a value, by the device and in `cache`.
    void fill() {
        std::vector<flex_npu_row> rows;
        std::vector<std::uint32_t> sequence_of;
        for (std::uint32_t s = 0; s < sequences.size(); ++s) {
            const auto first = static_cast<std::uint32_t>(list.size());
            list.insert(list.end(), sequences[s].blocks.begin(), sequences[s].blocks.end());
            firsts.push_back(first);
            for (std::uint32_t p = 0; p < sequences[s].length; ++p) {
                rows.push_back({p, first});
                sequence_of.push_back(s);
            }
        }
        const std::size_t n = layout.head_size, width = layout.kv_heads * n;
        const Floats keys = random.numbers(rows.size() * width), values = random.numbers(rows.size() * width);
        for (std::size_t t = 0; t < rows.size(); ++t) {
            for (std::uint32_t h = 0; h < layout.kv_heads; ++h) {
                const std::uint32_t p = rows[t].position;
                cache.store(sequences[sequence_of[t]].blocks[p / 32], p % 32, layer, h,
                            &keys[t * width + h * n], &values[t * width + h * n]);
            }
        }
        flex_npu_command c = kv_command(FLEX_NPU_KV_STORE, rows);
        c.x = operands->floats(keys, rows.size());
        c.z = operands->floats(values, rows.size());
        EXPECT_EQ(run(c).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
        EXPECT_TRUE(same_bits(region->get<std::byte>(192, cache.bytes.size()), cache.bytes));
    }
    /// Random rows, neighbours mostly, of random sequences.
    void attend(std::size_t group) {
        std::vector<flex_npu_row> rows;
        std::vector<std::uint32_t> sequence_of;
        for (std::uint32_t part = 0; part < 1 + random.below(4); ++part) {
            const std::uint32_t s = random.below(sequences.size());
            const std::uint32_t from = random.below(sequences[s].length);
            for (std::uint32_t p = from; p < std::min(sequences[s].length, from + 1 + random.below(30));
                 ++p) {
                rows.push_back({p, firsts[s]});
                sequence_of.push_back(s);
            }
        }
        const std::size_t n = layout.head_size, heads = layout.kv_heads * group, width = heads * n;
        const Floats x = random.numbers(rows.size() * width);
        const float factor = 1.0F / std::sqrt(static_cast<float>(n));
        flex_npu_command c = kv_command(FLEX_NPU_ATTENTION, rows);
        c.heads = static_cast<std::uint16_t>(heads);
        c.scalar = std::bit_cast<std::uint32_t>(factor);
        c.x = operands->floats(x, rows.size());
        c.y = operands->place(4, rows.size(), width);
        EXPECT_EQ(run(c).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
        const Floats got = operands->read(c.y, rows.size(), width);
        for (std::size_t i = 0; i < rows.size() * heads; ++i) {
            const std::size_t t = i / heads;
            const auto kv_head = static_cast<std::uint32_t>(i % heads / group);
            const Floats expected = cache.attend(&x[i * n], sequences[sequence_of[t]].blocks,
                                                 rows[t].position + std::size_t{1}, layer, kv_head, factor);
            ASSERT_TRUE(same_bits(expected, Floats(&got[i * n], &got[i * n] + n)))
                << engine::name_of(layout.type) << ", row " << t << " of " << rows.size();
        }
        EXPECT_TRUE(same_bits(region->get<std::byte>(192, cache.bytes.size()), cache.bytes))
            << "attention wrote to the cache";
    }

    Random random{11};
    KvLayout layout;
    std::uint32_t layer = 0;
    Cache cache{};
    std::vector<Sequence> sequences;
    std::vector<std::uint32_t> list, firsts;
    std::optional<Npu> npu;
    std::optional<TestRegion> region;
    std::optional<Operands> operands;
};

TEST_F(KvTest, keys_and_values_lie_where_the_engine_has_them_and_attention_gives_its_bits) {
    for (int round = 0; round < 36; ++round) {
        const auto type = static_cast<KvType>(round % 3);
        const std::uint32_t size =
            type == KvType::kQ8_0 ? 32 * (1 + random.below(4)) : 2 * (1 + random.below(64));
        firsts.clear();
        make(type, size, 1 + random.below(3), 90);
        fill();
        attend(1 + random.below(round % 6 == 0 ? 30 : 4)); // also more heads in a group than in a tile
    }
}

TEST_F(KvTest, the_largest_heads_fit) {
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8_0}) {
        firsts.clear();
        make(type, 512, 1, 40);
        fill();
        attend(3);
    }
}

TEST_F(KvTest, the_longest_context_fits) {
    // One block, named for all positions: what matters is the row of scores.
    make(KvType::kF32, 512, 1, 32);
    fill();
    sequences[0].blocks.assign(FLEX_NPU_CONTEXT_MAX / 32, sequences[0].blocks[0]);
    list.assign(FLEX_NPU_CONTEXT_MAX / 32, sequences[0].blocks[0]);
    const Floats x = random.numbers(2 * 512);
    flex_npu_command c = kv_command(FLEX_NPU_ATTENTION, {{FLEX_NPU_CONTEXT_MAX - 1, 0}});
    c.heads = 2;
    c.scalar = std::bit_cast<std::uint32_t>(0.01F);
    c.x = operands->floats(x, 1);
    c.y = operands->place(4, 1, 1024);
    ASSERT_EQ(run(c).status, static_cast<std::uint32_t>(FLEX_NPU_OK));
    const Floats got = operands->read(c.y, 1, 1024);
    const Floats expected =
        cache.attend(x.data(), sequences[0].blocks, FLEX_NPU_CONTEXT_MAX, layer, 0, 0.01F);
    EXPECT_TRUE(same_bits(expected, Floats(got.begin(), got.begin() + 512)));
}

} // namespace
} // namespace flex::npu::model::testing
