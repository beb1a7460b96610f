// Small models with random weights, made in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/exact.h"
#include "engine/tests/gguf_builder.h"

namespace flex::engine::testing {

struct RandomModel {
    bool llama = false; // else qwen3
    bool tied = true;
    bool rope_factors = false;
    TensorType type = TensorType::kQ8_0; // of the matrices
    std::uint32_t layers = 3, width = 64, ff = 96, heads = 4, kv_heads = 2, head_size = 32, vocabulary = 97,
                  context = 128;
    std::uint32_t seed = 1;

    [[nodiscard]] std::vector<std::byte> build() const { return builder().build(); }

    [[nodiscard]] GgufBuilder builder() const {
        std::mt19937 random(seed);
        GgufBuilder out;
        const std::string p = llama ? "llama." : "qwen3.";
        out.string("general.architecture", llama ? "llama" : "qwen3").string("general.name", "random");
        out.u32(p + "block_count", layers)
            .u32(p + "embedding_length", width)
            .u32(p + "feed_forward_length", ff);
        out.u32(p + "attention.head_count", heads).u32(p + "attention.head_count_kv", kv_heads);
        out.u32(p + "attention.key_length", head_size).u32(p + "attention.value_length", head_size);
        out.u32(p + "context_length", context).f32(p + "rope.freq_base", 10000.0F);
        out.f32(p + "attention.layer_norm_rms_epsilon", 1e-6F);
        matrix(out, random, "token_embd.weight", width, vocabulary);
        if (rope_factors) vector(out, random, "rope_freqs.weight", head_size / 2);
        for (std::uint32_t i = 0; i < layers; ++i) {
            const std::string blk = "blk." + std::to_string(i) + ".";
            vector(out, random, blk + "attn_norm.weight", width);
            matrix(out, random, blk + "attn_q.weight", width, heads * head_size);
            matrix(out, random, blk + "attn_k.weight", width, kv_heads * head_size);
            matrix(out, random, blk + "attn_v.weight", width, kv_heads * head_size);
            matrix(out, random, blk + "attn_output.weight", heads * head_size, width);
            if (!llama) vector(out, random, blk + "attn_q_norm.weight", head_size);
            if (!llama) vector(out, random, blk + "attn_k_norm.weight", head_size);
            vector(out, random, blk + "ffn_norm.weight", width);
            matrix(out, random, blk + "ffn_gate.weight", width, ff);
            matrix(out, random, blk + "ffn_up.weight", width, ff);
            matrix(out, random, blk + "ffn_down.weight", ff, width);
        }
        vector(out, random, "output_norm.weight", width);
        if (!tied) matrix(out, random, "output.weight", width, vocabulary);
        return out;
    }

private:
    static void vector(GgufBuilder& out, std::mt19937& random, const std::string& name,
                       std::uint64_t length) {
        std::uniform_real_distribution<float> value(0.5F, 1.5F);
        std::vector<std::byte> data;
        for (std::uint64_t i = 0; i < length; ++i) append(data, value(random));
        out.tensor(name, {length}, TensorType::kF32, std::move(data));
    }
    void matrix(GgufBuilder& out, std::mt19937& random, const std::string& name, std::uint64_t columns,
                std::uint64_t rows) const {
        std::uniform_real_distribution<float> value(-0.2F, 0.2F);
        std::uniform_int_distribution<int> byte(-127, 127);
        std::vector<std::byte> data;
        const std::uint64_t count = columns * rows;
        for (std::uint64_t i = 0; i < count; ++i) {
            switch (type) {
            case TensorType::kF32:
                append(data, value(random));
                break;
            case TensorType::kF16:
                append(data, f32_to_f16(value(random)));
                break;
            case TensorType::kBF16:
                append(data, static_cast<std::uint16_t>(bits_of(value(random)) >> 16));
                break;
            case TensorType::kQ8_0:
                if (i % 32 == 0) append(data, f32_to_f16(0.0015F + 0.001F * value(random)));
                append(data, static_cast<std::int8_t>(byte(random)));
                break;
            }
        }
        out.tensor(name, {columns, rows}, type, std::move(data));
    }
    template <class T> static void append(std::vector<std::byte>& data, T value) {
        const auto* at = reinterpret_cast<const std::byte*>(&value);
        data.insert(data.end(), at, at + sizeof value);
    }
};

} // namespace flex::engine::testing
