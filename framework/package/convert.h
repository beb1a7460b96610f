// A GGUF file as the engine can read it: tensors in Q4_0, Q4_K, Q5_K or Q6_K appear as Q8_0. For sealing; the
// device never sees such types.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/gguf.h"
#include "port/files.h"

namespace flex::package {

/// Immutable; safe to share between threads.
class ModelFile {
public:
    /// Errors: kNotFound, kIo, those of Gguf::parse.
    static Result<ModelFile> open(const std::string& path);

    /// The header up to the tensor data, with the types and offsets that read() goes by.
    [[nodiscard]] std::span<const std::byte> header() const { return header_; }
    [[nodiscard]] std::uint64_t size() const { return size_; }
    /// Any part of the file as header() describes it. Errors: kIo, kCorrupt (a block with a scale that is no
    /// number or too large for Q8_0; names the tensor).
    Status read(std::uint64_t offset, std::span<std::byte> out) const;
    /// For people: "120 tensors from Q4_K, 20 from Q6_K"; empty when the file is read as it is.
    [[nodiscard]] std::string conversions() const;

private:
    struct Part { // one tensor
        std::string name;
        engine::StoredType stored{};
        std::uint64_t offset = 0, bytes = 0; // as header() has it
        std::uint64_t file_offset = 0;
    };
    explicit ModelFile(port::MappedFile file) : file_(std::move(file)) {}
    void rewrite(const engine::Gguf& gguf);
    Status convert(const Part& part, std::uint64_t at, std::span<std::byte> out) const;

    port::MappedFile file_;
    std::vector<std::byte> header_;
    std::uint64_t size_ = 0;
    std::vector<Part> parts_; // by offset
};

/// Widens whole blocks of a stored type to out[count]; `blocks` holds exactly these. Formats: ggml's
/// block_q4_0, block_q4_K, block_q5_K, block_q6_K.
void dequantize(engine::StoredType type, std::span<const std::byte> blocks, std::span<float> out);

/// 32 numbers -> one Q8_0 block of 34 bytes: scale max|x| / 127 as f16, then round(x / scale). False when a
/// number is not finite or the scale does not fit.
[[nodiscard]] bool quantize_q8_0(std::span<const float, 32> x, std::span<std::byte, 34> block);

} // namespace flex::package
