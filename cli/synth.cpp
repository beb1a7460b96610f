#include "cli/synth.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "cli/synth_shapes.h"
#include "engine/gguf.h"
#include "engine/kernels/exact.h"
#include "port/files.h"

namespace flex::cli {
namespace {

using engine::GgufValueType;
using engine::TensorType;

constexpr std::uint64_t kAlignment = 32;

void need(const Status& status) {
    if (!status) throw std::runtime_error(status.error().message);
}

/// The part of a GGUF file before its tensor data (ggml's docs/gguf.md), in memory.
class Header {
public:
    template <class T> void value(const std::string& key, GgufValueType type, T value) {
        begin(key, type);
        put(values_, value);
    }
    void u32(const std::string& key, std::uint32_t v) { value(key, GgufValueType::kUint32, v); }
    void f32(const std::string& key, float v) { value(key, GgufValueType::kFloat32, v); }
    void flag(const std::string& key, bool v) {
        value(key, GgufValueType::kBool, static_cast<std::uint8_t>(v));
    }
    void string(const std::string& key, std::string_view v) {
        begin(key, GgufValueType::kString);
        put_string(values_, v);
    }
    void strings(const std::string& key, const std::vector<std::string>& v) {
        begin_array(key, GgufValueType::kString, v.size());
        for (const std::string& s : v) put_string(values_, s);
    }
    void integers(const std::string& key, const std::vector<std::int32_t>& v) {
        begin_array(key, GgufValueType::kInt32, v.size());
        for (const std::int32_t i : v) put(values_, i);
    }
    /// Tensors lie one after the other in the order of these calls, each aligned.
    void tensor(std::string_view name, std::uint64_t columns, std::uint64_t rows, TensorType type,
                std::uint64_t bytes) {
        ++tensor_count_;
        put_string(tensors_, name);
        put(tensors_, std::uint32_t{rows == 0 ? 1u : 2u}); // rows 0: a vector
        put(tensors_, columns);
        if (rows != 0) put(tensors_, rows);
        put(tensors_, static_cast<std::uint32_t>(type));
        put(tensors_, data_bytes_);
        data_bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    }
    [[nodiscard]] std::uint64_t data_bytes() const { return data_bytes_; }
    [[nodiscard]] std::vector<std::byte> finish() const {
        std::vector<std::byte> out;
        put(out, std::uint32_t{0x46554747}); // "GGUF"
        put(out, std::uint32_t{3});
        put(out, tensor_count_);
        put(out, value_count_);
        out.insert(out.end(), values_.begin(), values_.end());
        out.insert(out.end(), tensors_.begin(), tensors_.end());
        out.resize((out.size() + kAlignment - 1) / kAlignment * kAlignment);
        return out;
    }

private:
    using Bytes = std::vector<std::byte>;
    template <class T> static void put(Bytes& out, T value) {
        const auto* at = reinterpret_cast<const std::byte*>(&value);
        out.insert(out.end(), at, at + sizeof value);
    }
    static void put_string(Bytes& out, std::string_view text) {
        put(out, std::uint64_t{text.size()});
        const auto* at = reinterpret_cast<const std::byte*>(text.data());
        out.insert(out.end(), at, at + text.size());
    }
    void begin(const std::string& key, GgufValueType type) {
        ++value_count_;
        put_string(values_, key);
        put(values_, static_cast<std::uint32_t>(type));
    }
    void begin_array(const std::string& key, GgufValueType element, std::uint64_t count) {
        begin(key, GgufValueType::kArray);
        put(values_, static_cast<std::uint32_t>(element));
        put(values_, count);
    }

    Bytes values_, tensors_;
    std::uint64_t value_count_ = 0, tensor_count_ = 0, data_bytes_ = 0;
};

/// SplitMix64 (Steele, Lea, Flood 2014): eight good bytes in a few cycles, from any seed.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t word() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }
    float unit() { return static_cast<float>(word() >> 40) * 0x1p-24F; } // [0, 1)

private:
    std::uint64_t state_;
};

/// One tensor to be made. `deviation`: of a matrix's weights; 0 for a vector.
struct Plan {
    std::string name;
    std::uint64_t columns = 0, rows = 0;
    float deviation = 0;
    std::vector<float> values; ///< of a vector that is not random
};

/// Names and dimensions of a real file, in its order. Deviations keep the residual stream near 1 however many
/// layers add to it (the last matrix of each block is the smaller, as in GPT-2's initialisation).
std::vector<Plan> plan_tensors(const Shape& s) {
    std::vector<Plan> out;
    const auto matrix = [&](const std::string& name, std::uint64_t columns, std::uint64_t rows, float gain) {
        out.push_back({name, columns, rows, gain / std::sqrt(static_cast<float>(columns)), {}});
    };
    const auto norm = [&](const std::string& name, std::uint64_t n) { out.push_back({name, n, 0, 0, {}}); };
    const std::uint64_t q_width = std::uint64_t{s.heads} * s.head_size;
    const std::uint64_t kv_width = std::uint64_t{s.kv_heads} * s.head_size;
    const float last = 1.0F / std::sqrt(2.0F * static_cast<float>(s.layers));
    const bool qwen = s.family == Family::kQwen3;
    if (!s.tied_head) matrix("output.weight", s.width, s.vocabulary, 2.0F);
    matrix("token_embd.weight", s.width, s.vocabulary, 2.0F);
    if (s.rope_factor != 0) out.push_back({"rope_freqs.weight", s.head_size / 2, 0, 0, rope_factors(s)});
    for (std::uint32_t i = 0; i < s.layers; ++i) {
        const std::string blk = "blk." + std::to_string(i) + ".";
        norm(blk + "attn_norm.weight", s.width);
        matrix(blk + "ffn_down.weight", s.ff_width, s.width, last);
        matrix(blk + "ffn_gate.weight", s.width, s.ff_width, 1);
        matrix(blk + "ffn_up.weight", s.width, s.ff_width, 1);
        norm(blk + "ffn_norm.weight", s.width);
        if (qwen) norm(blk + "attn_k_norm.weight", s.head_size);
        matrix(blk + "attn_k.weight", s.width, kv_width, 1);
        matrix(blk + "attn_output.weight", q_width, s.width, last);
        if (qwen) norm(blk + "attn_q_norm.weight", s.head_size);
        matrix(blk + "attn_q.weight", s.width, q_width, 1);
        matrix(blk + "attn_v.weight", s.width, kv_width, 1);
    }
    norm("output_norm.weight", s.width);
    return out;
}

std::uint64_t bytes_of(const Plan& p) {
    return p.rows == 0 ? p.columns * sizeof(float)
                       : p.columns / engine::kQ8Block * engine::kQ8BlockBytes * p.rows;
}

Header make_header(const Shape& s, const std::vector<Plan>& tensors) {
    Header h;
    const bool qwen = s.family == Family::kQwen3;
    const std::string p = qwen ? "qwen3." : "llama.";
    h.string("general.architecture", qwen ? "qwen3" : "llama");
    h.string("general.type", "model");
    h.string("general.name", "random " + std::string(s.name));
    h.u32("general.file_type", 7); // LLAMA_FTYPE_MOSTLY_Q8_0
    h.u32("general.quantization_version", 2);
    h.u32(p + "block_count", s.layers);
    h.u32(p + "context_length", s.context);
    h.u32(p + "embedding_length", s.width);
    h.u32(p + "feed_forward_length", s.ff_width);
    h.u32(p + "attention.head_count", s.heads);
    h.u32(p + "attention.head_count_kv", s.kv_heads);
    h.u32(p + "attention.key_length", s.head_size);
    h.u32(p + "attention.value_length", s.head_size);
    h.f32(p + "attention.layer_norm_rms_epsilon", qwen ? 1e-6F : 1e-5F);
    h.f32(p + "rope.freq_base", s.rope_base);
    if (!qwen) {
        h.u32(p + "rope.dimension_count", s.head_size);
        h.u32(p + "vocab_size", s.vocabulary);
    }
    const Vocabulary v = make_vocabulary(s);
    h.string("tokenizer.ggml.model", "gpt2");
    h.string("tokenizer.ggml.pre", v.pre);
    h.strings("tokenizer.ggml.tokens", v.tokens);
    h.integers("tokenizer.ggml.token_type", v.kinds);
    h.strings("tokenizer.ggml.merges", v.merges);
    h.u32("tokenizer.ggml.bos_token_id", v.bos);
    h.u32("tokenizer.ggml.eos_token_id", v.eos);
    h.u32("tokenizer.ggml.padding_token_id", v.padding);
    h.flag("tokenizer.ggml.add_bos_token", v.adds_bos);
    h.string("tokenizer.chat_template", v.chat_template);
    for (const Plan& t : tensors)
        h.tensor(t.name, t.columns, t.rows, t.rows == 0 ? TensorType::kF32 : TensorType::kQ8_0, bytes_of(t));
    return h;
}

/// `count` Q8_0 blocks at `out`: uniform bytes in -127..127 (quantizers never write -128), deviation 73.6.
void fill_blocks(Random& random, float deviation, std::span<std::byte> out) {
    constexpr float kDeviationOfBytes = 73.6F;
    for (std::size_t at = 0; at < out.size(); at += engine::kQ8BlockBytes) {
        const float spread = 0.75F + 0.5F * random.unit();
        const std::uint16_t scale = engine::f32_to_f16(spread * deviation / kDeviationOfBytes);
        std::memcpy(&out[at], &scale, sizeof scale);
        for (std::size_t i = 2; i < engine::kQ8BlockBytes; i += 8) {
            const std::uint64_t word = random.word();
            std::memcpy(&out[at + i], &word, sizeof word);
        }
        for (std::size_t i = 2; i < engine::kQ8BlockBytes; ++i) {
            if (out[at + i] == std::byte{0x80}) out[at + i] = std::byte{0};
        }
    }
}

/// A line on stderr that is redrawn, for a person to see.
class Progress {
public:
    explicit Progress(std::uint64_t total) : total_(total) {}
    void operator()(std::uint64_t done) {
        const auto now = std::chrono::steady_clock::now();
        if (::isatty(STDERR_FILENO) == 0 || now - drawn_ < std::chrono::milliseconds(200)) return;
        drawn_ = now;
        std::fprintf(stderr, "\rwriting %3d %% of %.1f MiB", static_cast<int>(done * 100 / total_),
                     static_cast<double>(total_) / 1048576);
        shown_ = true;
    }
    ~Progress() {
        if (shown_) std::fputc('\n', stderr);
    }

private:
    std::uint64_t total_;
    std::chrono::steady_clock::time_point drawn_ = std::chrono::steady_clock::now();
    bool shown_ = false;
};

void write_tensors(port::NewFile& file, std::uint64_t at, std::uint64_t data_bytes,
                   const std::vector<Plan>& tensors, std::uint64_t seed) {
    constexpr std::uint64_t kPiece = 65536 * engine::kQ8BlockBytes;
    Random random(seed);
    Progress progress(at + data_bytes);
    std::vector<std::byte> piece;
    for (const Plan& t : tensors) {
        const std::uint64_t bytes = bytes_of(t);
        for (std::uint64_t done = 0; done < bytes; done += piece.size()) {
            piece.assign(std::min(kPiece, bytes - done), std::byte{0});
            if (t.rows != 0) {
                fill_blocks(random, t.deviation, piece);
            } else {
                for (std::uint64_t i = 0; i < t.columns; ++i) {
                    const float v = t.values.empty() ? 0.75F + 0.5F * random.unit() : t.values[i];
                    std::memcpy(&piece[i * sizeof v], &v, sizeof v);
                }
            }
            need(file.write(at + done, piece));
            progress(at + done);
        }
        at += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    }
    // The padding after the last tensor belongs to the file.
    const std::vector<std::byte> zero(kAlignment);
    if (const std::uint64_t rest = bytes_of(tensors.back()) % kAlignment; rest != 0)
        need(file.write(at - (kAlignment - rest), std::span(zero).first(kAlignment - rest)));
}

struct Arguments {
    std::string shape, output;
    std::uint64_t seed = 1;
};

std::string names() {
    std::string out;
    for (const Shape& shape : known_shapes()) out += (out.empty() ? "" : ", ") + std::string(shape.name);
    return out;
}

void synth(const Arguments& arguments) {
    const Shape* shape = nullptr;
    for (const Shape& known : known_shapes()) {
        if (known.name == arguments.shape) shape = &known;
    }
    if (shape == nullptr)
        throw std::runtime_error("unknown shape '" + arguments.shape + "'; known are " + names());
    const std::vector<Plan> tensors = plan_tensors(*shape);
    const Header header = make_header(*shape, tensors);
    const std::vector<std::byte> prefix = header.finish();
    auto file = port::NewFile::create(arguments.output);
    if (!file) throw std::runtime_error(file.error().message);
    need(file->write(0, prefix));
    write_tensors(*file, prefix.size(), header.data_bytes(), tensors, arguments.seed);
    need(file->commit());
}

} // namespace

void write_synth_model(const std::string& shape, const std::string& output, std::uint64_t seed) {
    Arguments arguments;
    arguments.shape = shape;
    arguments.output = output;
    arguments.seed = seed;
    synth(arguments);
}

void register_synth(CLI::App& app) {
    auto arguments = std::make_shared<Arguments>();
    CLI::App* command =
        app.add_subcommand("synth", "Write a model of a true shape with random weights (Q8_0 GGUF)");
    command->add_option("--shape", arguments->shape, "one of " + names())->required();
    command->add_option("-o,--output", arguments->output, "the file to write")->required();
    command->add_option("--seed", arguments->seed, "other weights for another seed (default 1)");
    command->callback([arguments] { synth(*arguments); });
}

} // namespace flex::cli
