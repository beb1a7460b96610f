#include "cli/synth_shapes.h"

#include <array>
#include <cmath>
#include <numbers>

namespace flex::cli {
namespace {

constexpr std::uint32_t kQwenOrdinary = 151643, kQwenAll = 151936;
constexpr std::uint32_t kLlamaOrdinary = 128000, kLlamaAll = 128256;
constexpr std::uint32_t kTinyOrdinary = 1792,
                        kTinyAll = 2048; // both families have at most 256 special tokens

constexpr Family kQ = Family::kQwen3, kL = Family::kLlama3;
// clang-format off
constexpr Shape kShapes[] = {
    {"qwen3-0.6b",   kQ, 28, 1024,  3072, 16, 8, 128, true,   40960, 1e6F,  0, kQwenOrdinary,  kQwenAll},
    {"qwen3-1.7b",   kQ, 28, 2048,  6144, 16, 8, 128, true,   40960, 1e6F,  0, kQwenOrdinary,  kQwenAll},
    {"qwen3-4b",     kQ, 36, 2560,  9728, 32, 8, 128, true,   40960, 1e6F,  0, kQwenOrdinary,  kQwenAll},
    {"qwen3-8b",     kQ, 36, 4096, 12288, 32, 8, 128, false,  40960, 1e6F,  0, kQwenOrdinary,  kQwenAll},
    {"llama-3.2-1b", kL, 16, 2048,  8192, 32, 8,  64, true,  131072, 5e5F, 32, kLlamaOrdinary, kLlamaAll},
    {"llama-3.2-3b", kL, 28, 3072,  8192, 24, 8, 128, true,  131072, 5e5F, 32, kLlamaOrdinary, kLlamaAll},
    {"llama-3.1-8b", kL, 32, 4096, 14336, 32, 8, 128, false, 131072, 5e5F,  8, kLlamaOrdinary, kLlamaAll},
    {"tiny-qwen3",   kQ,  4,  128,   384,  4, 2,  64, true,    2048, 1e6F,  0, kTinyOrdinary,  kTinyAll},
    {"mini-qwen3",   kQ,  6,  256,   768,  4, 2,  64, true,    2048, 1e6F,  0, kTinyOrdinary,  kTinyAll},
    {"small-qwen3",  kQ, 12,  512,  1536,  8, 4,  64, true,    2048, 1e6F,  0, kTinyOrdinary,  kTinyAll},
    {"tiny-llama",   kL,  4,  128,   384,  4, 2,  32, false,   2048, 5e5F, 32, kTinyOrdinary,  kTinyAll},
};
// clang-format on

constexpr std::int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

constexpr std::string_view kChatMl =
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>\\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' "
    "-}}{%- endif -%}";
constexpr std::string_view kLlama3Chat =
    "{{- bos_token }}{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}{%- if "
    "add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}";

std::string utf8(std::uint32_t code) { // below 0x800
    if (code < 0x80) return {static_cast<char>(code)};
    return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

/// GPT-2's printable names of the 256 bytes, ordered so that frequent ones come first: merges of early ones
/// have the low ranks.
std::array<std::string, 256> byte_names() {
    std::array<std::uint32_t, 256> code{};
    std::uint32_t next = 256;
    for (std::uint32_t b = 0; b < 256; ++b) {
        const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        code[b] = printable ? b : next++;
    }
    std::array<std::string, 256> names;
    std::array<bool, 256> taken{};
    std::size_t n = 0;
    for (const unsigned char b : std::string_view(" etaoinshrdlucmfwygpbvk")) {
        names[n++] = utf8(code[b]);
        taken[b] = true;
    }
    for (std::size_t b = 0; b < 256; ++b) {
        if (!taken[b]) names[n++] = utf8(code[b]);
    }
    return names;
}

/// Every pair (i, j) once, those of small i + j first.
template <class Visit> void pairs(std::uint32_t n, const Visit& visit) {
    for (std::uint32_t sum = 0; sum < 2 * n - 1; ++sum) {
        for (std::uint32_t i = sum < n ? 0 : sum - n + 1; i <= sum && i < n; ++i) {
            if (!visit(i, sum - i)) return;
        }
    }
}

void add_ordinary(Vocabulary& v, std::uint32_t count) {
    const auto bytes = byte_names();
    v.tokens.assign(bytes.begin(), bytes.end());
    const auto merge = [&](std::uint32_t left, std::uint32_t right) {
        if (v.tokens.size() == count) return false;
        v.merges.push_back(v.tokens[left] + " " + v.tokens[right]);
        v.tokens.push_back(v.tokens[left] + v.tokens[right]);
        return true;
    };
    // 256 bytes, 65536 pairs, then pair and byte: as many as anyone needs, and no two alike.
    pairs(256, merge);
    const auto end_of_pairs = static_cast<std::uint32_t>(v.tokens.size());
    for (std::uint32_t pair = 256; pair < end_of_pairs && v.tokens.size() < count; ++pair) {
        for (std::uint32_t byte = 0; byte < 256 && merge(pair, byte); ++byte) {
        }
    }
    v.kinds.assign(v.tokens.size(), kNormal);
}

void add(Vocabulary& v, std::string token, std::int32_t kind) {
    v.tokens.push_back(std::move(token));
    v.kinds.push_back(kind);
}

void add_qwen_specials(Vocabulary& v, const Shape& shape) {
    for (const char* name :
         {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
          "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
          "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"})
        add(v, name, kControl);
    for (const char* name :
         {"<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
          "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"})
        add(v, name, kUserDefined);
    while (v.tokens.size() < shape.vocabulary)
        add(v, "[PAD" + std::to_string(v.tokens.size()) + "]", kUnused);
    v.bos = v.padding = shape.ordinary;
    v.eos = shape.ordinary + 2;
    v.pre = "qwen2";
    v.chat_template = kChatMl;
}

void add_llama_specials(Vocabulary& v, const Shape& shape) {
    constexpr const char* kNamed[] = {"<|begin_of_text|>",
                                      "<|end_of_text|>",
                                      "<|reserved_special_token_0|>",
                                      "<|reserved_special_token_1|>",
                                      "<|finetune_right_pad_id|>",
                                      nullptr,
                                      "<|start_header_id|>",
                                      "<|end_header_id|>",
                                      "<|eom_id|>",
                                      "<|eot_id|>",
                                      "<|python_tag|>"};
    std::uint32_t reserved = 2;
    for (std::size_t i = 0; v.tokens.size() < shape.vocabulary; ++i) {
        const char* name = i < std::size(kNamed) ? kNamed[i] : nullptr;
        add(v, name != nullptr ? name : "<|reserved_special_token_" + std::to_string(reserved++) + "|>",
            kControl);
    }
    v.bos = shape.ordinary;
    v.eos = shape.ordinary + 9;
    v.padding = shape.ordinary + 4;
    v.adds_bos = true;
    v.pre = "llama-bpe";
    v.chat_template = kLlama3Chat;
}

} // namespace

std::span<const Shape> known_shapes() { return kShapes; }

Vocabulary make_vocabulary(const Shape& shape) {
    Vocabulary v;
    add_ordinary(v, shape.ordinary);
    if (shape.family == Family::kQwen3) {
        add_qwen_specials(v, shape);
    } else {
        add_llama_specials(v, shape);
    }
    return v;
}

std::vector<float> rope_factors(const Shape& shape) {
    // low_freq_factor 1, high_freq_factor 4: wavelengths beyond 8192 are stretched wholly, those below 8192 /
    // 4 not at all, the ones between in part.
    constexpr double kOriginal = 8192, kLow = 1, kHigh = 4;
    std::vector<float> out;
    for (std::uint32_t i = 0; i < shape.head_size / 2; ++i) {
        const double frequency = std::pow(shape.rope_base, -2.0 * i / shape.head_size);
        const double wavelength = 2 * std::numbers::pi / frequency;
        double factor = 1;
        if (wavelength > kOriginal / kLow) {
            factor = shape.rope_factor;
        } else if (wavelength > kOriginal / kHigh) {
            const double smooth = (kOriginal / wavelength - kLow) / (kHigh - kLow);
            factor = 1 / ((1 - smooth) / shape.rope_factor + smooth);
        }
        out.push_back(static_cast<float>(factor));
    }
    return out;
}

} // namespace flex::cli
