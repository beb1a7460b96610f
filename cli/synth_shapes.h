// The shapes that `flexserve synth` knows, and what a file of each says besides its weights.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flex::cli {

enum class Family : std::uint8_t { kQwen3, kLlama3 };

/// As in the files that the makers publish; tiny, mini and small are our own.
struct Shape {
    std::string_view name;
    Family family;
    std::uint32_t layers, width, ff_width, heads, kv_heads, head_size;
    bool tied_head;
    std::uint32_t context;
    float rope_base;
    float rope_factor;        ///< Llama 3.1 and later stretch low frequencies by this; 0: no such table
    std::uint32_t ordinary;   ///< tokens before the special ones
    std::uint32_t vocabulary; ///< all
};

[[nodiscard]] std::span<const Shape> known_shapes();

/// A byte-level BPE vocabulary of the family's size: 256 bytes, pairs of bytes, pairs and a byte, then the
/// family's special tokens at their usual numbers.
struct Vocabulary {
    std::vector<std::string> tokens;
    std::vector<std::int32_t> kinds; ///< llama.cpp's llama_token_type
    std::vector<std::string> merges;
    std::uint32_t bos = 0, eos = 0, padding = 0;
    bool adds_bos = false;
    std::string_view pre;
    std::string_view chat_template;
};

[[nodiscard]] Vocabulary make_vocabulary(const Shape& shape);

/// Divisors of the RoPE frequencies, [head_size / 2], as Llama 3.1 computes them for an original context of
/// 8192.
[[nodiscard]] std::vector<float> rope_factors(const Shape& shape);

} // namespace flex::cli
