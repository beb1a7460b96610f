// GGUF v3 reader (little-endian) over bytes in memory. Specification: ggml's docs/gguf.md.
//
// The bytes are hostile until proven otherwise: every count, length, type, dimension, offset and alignment is
// checked against the size of the input before it is used, and nothing is allocated in proportion to a number
// in the file that the file's own size does not back.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"

namespace flex::engine {

/// Numbers are those of ggml_type.
enum class TensorType : std::uint32_t { kF32 = 0, kF16 = 1, kQ8_0 = 8, kBF16 = 30 };

[[nodiscard]] const char* name_of(TensorType type);

/// Elements that share one block (32 for Q8_0, else 1), and the bytes of a block.
[[nodiscard]] std::uint32_t block_elements(TensorType type);
[[nodiscard]] std::uint32_t block_bytes(TensorType type);

/// What a file may hold: the engine's types, and those that sealing converts to Q8_0 (package/convert.h).
enum class StoredType : std::uint32_t {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ8_0 = 8,
    kQ4_K = 12,
    kQ5_K = 13,
    kQ6_K = 14,
    kBF16 = 30,
};
[[nodiscard]] const char* name_of(StoredType type);
[[nodiscard]] std::uint32_t block_elements(StoredType type);
[[nodiscard]] std::uint32_t block_bytes(StoredType type);
[[nodiscard]] bool needs_conversion(StoredType type);

/// Which types a parsed file may have.
enum class StoredTypes : std::uint8_t {
    kEngine, ///< those that the engine computes with
    kAll,    ///< also those that need conversion: their GgufTensor::type is Q8_0, which the data is not yet
};

/// Where one tensor lies. `dims[0]` is the contiguous dimension; unused dimensions are 1.
struct GgufTensor {
    std::string_view name; ///< view into the parsed bytes
    TensorType type = TensorType::kF32;
    StoredType stored = StoredType::kF32;
    std::uint64_t type_at =
        0; ///< offset in the file of the number of its type, which that of its offset follows
    std::uint32_t rank = 0; ///< 1..4
    std::array<std::uint64_t, 4> dims{1, 1, 1, 1};
    std::uint64_t offset = 0; ///< bytes from the start of the file
    std::uint64_t bytes = 0;  ///< exact size; offset + bytes <= file size
};

/// Numbers are those of gguf_metadata_value_type.
enum class GgufValueType : std::uint32_t {
    kUint8 = 0,
    kInt8,
    kUint16,
    kInt16,
    kUint32,
    kInt32,
    kFloat32,
    kBool,
    kString,
    kArray,
    kUint64,
    kInt64,
    kFloat64,
};

/// A checked array of strings, walked without copying: `for (auto s : strings) …`.
class GgufStrings {
public:
    class Iterator {
    public:
        explicit Iterator(const std::byte* at, std::uint64_t left) : at_(at), left_(left) {}
        std::string_view operator*() const;
        Iterator& operator++();
        bool operator!=(const Iterator& other) const { return left_ != other.left_; }

    private:
        const std::byte* at_;
        std::uint64_t left_;
    };
    GgufStrings(const std::byte* first, std::uint64_t count) : first_(first), count_(count) {}
    [[nodiscard]] std::uint64_t size() const { return count_; }
    [[nodiscard]] Iterator begin() const { return Iterator(first_, count_); }
    [[nodiscard]] Iterator end() const { return Iterator(nullptr, 0); }

private:
    const std::byte* first_;
    std::uint64_t count_;
};

/// The parsed header. Holds views into the bytes given to parse(), which must outlive it. Immutable; safe to
/// share.
class Gguf {
public:
    /// `bytes` holds at least the header (everything up to the tensor data). `file_size` is the size of the
    /// whole file, of which `bytes` is the beginning: pass it when the tensor data is somewhere else (a
    /// sealed package). Errors: kCorrupt, kUnsupported (version, big-endian, tensor types, nested arrays).
    static Result<Gguf> parse(std::span<const std::byte> bytes, std::uint64_t file_size,
                              StoredTypes types = StoredTypes::kEngine);
    static Result<Gguf> parse(std::span<const std::byte> bytes) { return parse(bytes, bytes.size()); }

    /// Values by key. Absent: nullopt. Present with another type (or out of range): kCorrupt error.
    [[nodiscard]] Result<std::optional<std::uint64_t>> unsigned_value(std::string_view key) const;
    [[nodiscard]] Result<std::optional<double>> float_value(std::string_view key) const;
    [[nodiscard]] Result<std::optional<bool>> bool_value(std::string_view key) const;
    [[nodiscard]] Result<std::optional<std::string_view>> string_value(std::string_view key) const;
    [[nodiscard]] Result<std::optional<GgufStrings>> string_array(std::string_view key) const;
    /// An array of any integer type, widened.
    [[nodiscard]] Result<std::optional<std::vector<std::int64_t>>> integer_array(std::string_view key) const;
    [[nodiscard]] bool has(std::string_view key) const { return find(key) != nullptr; }

    [[nodiscard]] std::span<const GgufTensor> tensors() const { return tensors_; }
    [[nodiscard]] const GgufTensor* tensor(std::string_view name) const;

    /// File offset of the tensor data = size of the header including its padding.
    [[nodiscard]] std::uint64_t data_offset() const { return data_offset_; }
    [[nodiscard]] std::uint32_t alignment() const { return alignment_; }
    [[nodiscard]] std::uint64_t file_size() const { return file_size_; }

private:
    struct Value {
        GgufValueType type;
        GgufValueType element{}; ///< of an array
        std::uint64_t count = 1; ///< of an array
        const std::byte* data;   ///< first byte of the value (of an array: of its first element)
    };
    friend class GgufParser;
    [[nodiscard]] const Value* find(std::string_view key) const;

    std::unordered_map<std::string_view, Value> values_;
    std::vector<GgufTensor> tensors_;
    std::unordered_map<std::string_view, std::size_t> tensor_by_name_;
    std::uint64_t data_offset_ = 0;
    std::uint64_t file_size_ = 0;
    std::uint32_t alignment_ = 32;
};

} // namespace flex::engine
