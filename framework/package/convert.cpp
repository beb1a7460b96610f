#include "package/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "engine/kernels/exact.h"

namespace flex::package {
namespace {

using engine::StoredType;

constexpr std::size_t kQ8Elements = 32, kQ8Bytes = 34;
constexpr std::size_t kBlocksAtOnce = 64;

std::uint8_t byte_at(const std::byte* at, std::size_t i) { return std::to_integer<std::uint8_t>(at[i]); }

float half_at(const std::byte* at) {
    std::uint16_t half;
    std::memcpy(&half, at, sizeof half);
    return engine::f16_to_f32(half);
}

/// d, 16 bytes: elements 0..15 in the low nibbles, 16..31 in the high ones, each 8 too large.
void widen_q4_0(const std::byte* block, float* out) {
    const float d = half_at(block);
    for (std::size_t i = 0; i < 16; ++i) {
        const int q = byte_at(block, 2 + i);
        out[i] = d * static_cast<float>((q & 15) - 8);
        out[i + 16] = d * static_cast<float>((q >> 4) - 8);
    }
}

struct ScaleAndMin {
    float scale, min;
};

/// Eight 6-bit scales and eight 6-bit minima in 12 bytes: the first four of each in the low 6 bits of bytes
/// 0..3 and 4..7; of the others the low 4 bits in bytes 8..11 (scale low, minimum high), the high 2 bits in
/// the top bits of bytes 0..3 and 4..7.
ScaleAndMin scale_and_min(const std::byte* packed, std::size_t i) {
    if (i < 4) {
        return {static_cast<float>(byte_at(packed, i) & 63), static_cast<float>(byte_at(packed, i + 4) & 63)};
    }
    const unsigned low = byte_at(packed, i + 4);
    return {static_cast<float>((low & 15u) | (byte_at(packed, i - 4) >> 6u) << 4u),
            static_cast<float>((low >> 4u) | (byte_at(packed, i) >> 6u) << 4u)};
}

/// Q4_K: d, dmin, 12 bytes of scales, 128 bytes of nibbles. Q5_K: 32 bytes with the fifth bits come before
/// the nibbles; bit 2j of byte l is that of element l of sub-block 2j. Sub-blocks have 32 elements; two share
/// 32 bytes, one the low nibbles, one the high.
void widen_q45_k(const std::byte* block, bool five_bits, float* out) {
    const float d = half_at(block), dmin = half_at(block + 2);
    const std::byte* fifth = block + 16;
    const std::byte* nibbles = block + (five_bits ? 48 : 16);
    for (std::size_t sub = 0; sub < 8; ++sub) {
        const auto [scale, min] = scale_and_min(block + 4, sub);
        for (std::size_t l = 0; l < 32; ++l) {
            const unsigned pair = byte_at(nibbles, sub / 2 * 32 + l);
            unsigned q = sub % 2 == 0 ? pair & 15u : pair >> 4u;
            if (five_bits) q += (byte_at(fifth, l) >> sub & 1u) << 4u;
            out[sub * 32 + l] = d * scale * static_cast<float>(q) - dmin * min;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales, d. In each half of 128 elements
/// four runs of 32 share 64 bytes of nibbles (runs 0, 1 the low, 2, 3 the high ones) and 32 bytes of bit
/// pairs; elements are 32 too large.
void widen_q6_k(const std::byte* block, float* out) {
    const float d = half_at(block + 208);
    for (std::size_t half = 0; half < 2; ++half) {
        for (std::size_t run = 0; run < 4; ++run) {
            for (std::size_t l = 0; l < 32; ++l) {
                const unsigned pair = byte_at(block, half * 64 + run % 2 * 32 + l);
                const unsigned low = run < 2 ? pair & 15u : pair >> 4u;
                const unsigned high = byte_at(block, 128 + half * 32 + l) >> (2 * run) & 3u;
                const auto scale =
                    static_cast<std::int8_t>(byte_at(block, 192 + half * 8 + run * 2 + l / 16));
                out[half * 128 + run * 32 + l] = d * static_cast<float>(scale) *
                                                 static_cast<float>(static_cast<int>(low | high << 4u) - 32);
            }
        }
    }
}

template <class T> void put(std::vector<std::byte>& to, std::uint64_t at, T value) {
    std::memcpy(to.data() + at, &value, sizeof value);
}

} // namespace

void dequantize(StoredType type, std::span<const std::byte> blocks, std::span<float> out) {
    const std::size_t elements = engine::block_elements(type), bytes = engine::block_bytes(type);
    for (std::size_t i = 0; i * bytes < blocks.size(); ++i) {
        const std::byte* block = blocks.data() + i * bytes;
        float* to = out.data() + i * elements;
        if (type == StoredType::kQ4_0) widen_q4_0(block, to);
        if (type == StoredType::kQ4_K) widen_q45_k(block, false, to);
        if (type == StoredType::kQ5_K) widen_q45_k(block, true, to);
        if (type == StoredType::kQ6_K) widen_q6_k(block, to);
    }
}

bool quantize_q8_0(std::span<const float, 32> x, std::span<std::byte, 34> block) {
    float most = 0;
    for (const float value : x) {
        if (!std::isfinite(value)) return false;
        most = std::max(most, std::fabs(value));
    }
    const float d = most / 127.0F;
    const std::uint16_t half = engine::f32_to_f16(d);
    if (!std::isfinite(engine::f16_to_f32(half))) return false;
    std::memcpy(block.data(), &half, sizeof half);
    const float inverse = d > 0 ? 1.0F / d : 0.0F;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const float q = std::round(x[i] * inverse); // half away from zero, as ggml
        block[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(std::clamp(q, -127.0F, 127.0F)));
    }
    return true;
}

Result<ModelFile> ModelFile::open(const std::string& path) {
    FLEX_ASSIGN(auto file, port::MappedFile::open(path));
    const auto bytes = file.bytes();
    FLEX_ASSIGN(const auto gguf, engine::Gguf::parse(bytes, bytes.size(), engine::StoredTypes::kAll));
    ModelFile out(std::move(file));
    out.header_.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(gguf.data_offset()));
    out.size_ = bytes.size();
    const auto converts = [](const engine::GgufTensor& t) { return engine::needs_conversion(t.stored); };
    if (std::ranges::any_of(gguf.tensors(), converts)) out.rewrite(gguf);
    return out;
}

/// Gives every tensor a new place, one after the other, and says so in the header.
void ModelFile::rewrite(const engine::Gguf& gguf) {
    const std::uint64_t mask = gguf.alignment() - 1;
    std::uint64_t end = gguf.data_offset();
    for (const engine::GgufTensor& tensor : gguf.tensors()) {
        Part part{std::string(tensor.name), tensor.stored, (end + mask) & ~mask, tensor.bytes, tensor.offset};
        if (engine::needs_conversion(tensor.stored)) {
            part.bytes = tensor.bytes / engine::block_bytes(tensor.stored) *
                         engine::block_elements(tensor.stored) / kQ8Elements * kQ8Bytes;
            put(header_, tensor.type_at, static_cast<std::uint32_t>(engine::TensorType::kQ8_0));
        }
        put(header_, tensor.type_at + 4, part.offset - gguf.data_offset());
        end = part.offset + part.bytes;
        parts_.push_back(std::move(part));
    }
    size_ = end;
}

Status ModelFile::read(std::uint64_t offset, std::span<std::byte> out) const {
    if (parts_.empty()) return file_.file().read(offset, out);
    if (offset > size_ || out.size() > size_ - offset) return fail(ErrorCode::kIo, "reads past the end");
    std::ranges::fill(out, std::byte{0}); // what lies between tensors
    const std::uint64_t end = offset + out.size();
    if (offset < header_.size()) {
        std::copy_n(header_.begin() + static_cast<std::ptrdiff_t>(offset),
                    std::min<std::uint64_t>(out.size(), header_.size() - offset), out.begin());
    }
    auto part = std::ranges::upper_bound(parts_, offset, {}, &Part::offset);
    if (part != parts_.begin()) --part;
    for (; part != parts_.end() && part->offset < end; ++part) {
        const std::uint64_t from = std::max(offset, part->offset),
                            to = std::min(end, part->offset + part->bytes);
        if (from >= to) continue;
        const auto piece = out.subspan(from - offset, to - from);
        if (engine::needs_conversion(part->stored)) {
            FLEX_TRY(convert(*part, from - part->offset, piece));
        } else {
            FLEX_TRY(file_.file().read(part->file_offset + (from - part->offset), piece));
        }
    }
    return {};
}

/// Fills `out` with what lies at `at` in the tensor as Q8_0.
Status ModelFile::convert(const Part& part, std::uint64_t at, std::span<std::byte> out) const {
    const std::size_t elements = engine::block_elements(part.stored),
                      stored_bytes = engine::block_bytes(part.stored);
    const std::size_t q8_bytes = elements / kQ8Elements * kQ8Bytes; // of one stored block
    std::vector<std::byte> stored(kBlocksAtOnce * stored_bytes), q8(kBlocksAtOnce * q8_bytes);
    std::vector<float> numbers(kBlocksAtOnce * elements);
    const std::uint64_t blocks = part.bytes / q8_bytes;
    for (std::uint64_t block = at / q8_bytes; block * q8_bytes < at + out.size();) {
        const std::size_t count = std::min<std::uint64_t>(kBlocksAtOnce, blocks - block);
        const std::span from = std::span(stored).first(count * stored_bytes);
        FLEX_TRY(file_.file().read(part.file_offset + block * stored_bytes, from));
        dequantize(part.stored, from, numbers);
        for (std::size_t i = 0; i < count * elements / kQ8Elements; ++i) {
            const std::span<const float, 32> x(numbers.data() + i * kQ8Elements, kQ8Elements);
            const std::span<std::byte, 34> to(q8.data() + i * kQ8Bytes, kQ8Bytes);
            if (!quantize_q8_0(x, to))
                return fail(ErrorCode::kCorrupt,
                            "tensor '" + part.name + "' holds a weight that Q8_0 cannot hold");
        }
        const std::uint64_t begin = block * q8_bytes, end = begin + count * q8_bytes;
        const std::uint64_t first = std::max(begin, at), last = std::min<std::uint64_t>(end, at + out.size());
        std::copy_n(q8.begin() + static_cast<std::ptrdiff_t>(first - begin), last - first,
                    out.begin() + static_cast<std::ptrdiff_t>(first - at));
        block += count;
    }
    return {};
}

std::string ModelFile::conversions() const {
    std::map<std::string, std::size_t> counts;
    for (const Part& part : parts_) {
        if (engine::needs_conversion(part.stored)) ++counts[engine::name_of(part.stored)];
    }
    std::string out;
    for (const auto& [name, count] : counts) {
        out += (out.empty() ? "" : ", ") + std::to_string(count) + (out.empty() ? " tensors" : "") +
               " from " + name;
    }
    return out;
}

} // namespace flex::package
