#include "engine/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace flex::engine {

namespace {

static_assert(std::endian::native == std::endian::little, "GGUF v3 is read as little-endian, in place");

// Limits far above any real model, far below what would hurt.
constexpr std::uint64_t kMaxValues = 1u << 16;
constexpr std::uint64_t kMaxTensors = 1u << 16;
constexpr std::uint64_t kMaxKeyBytes = 1u << 10; // the specification says 65535; real keys stay under 64
constexpr std::uint64_t kMaxTensorName = 256;    // the specification says 64
constexpr std::uint64_t kMaxArray = 1u << 24;    // vocabularies are below 2^19
constexpr std::uint64_t kMaxAlignment = 1u << 16;
constexpr std::uint32_t kMagic = 0x46554747; // "GGUF"

constexpr std::uint32_t kLastType = static_cast<std::uint32_t>(GgufValueType::kFloat64);

/// Bytes of a fixed-size value; 0 for strings and arrays.
std::uint32_t fixed_size(GgufValueType type) {
    switch (type) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
    case GgufValueType::kBool:
        return 1;
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
        return 2;
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
    case GgufValueType::kFloat32:
        return 4;
    case GgufValueType::kUint64:
    case GgufValueType::kInt64:
    case GgufValueType::kFloat64:
        return 8;
    case GgufValueType::kString:
    case GgufValueType::kArray:
        break;
    }
    return 0;
}

template <class T> T load(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

/// Names come from the file: only printable ASCII of them may reach a terminal or a log.
std::string printable(std::string_view text) {
    std::string out;
    for (const char c : text.substr(0, 80)) out += (c >= 0x20 && c < 0x7f) ? c : '?';
    return out;
}

Error corrupt(std::string what) { return fail(ErrorCode::kCorrupt, "GGUF: " + std::move(what)); }

} // namespace

const char* name_of(StoredType type) {
    switch (type) {
    case StoredType::kF32:
        return "F32";
    case StoredType::kF16:
        return "F16";
    case StoredType::kQ4_0:
        return "Q4_0";
    case StoredType::kQ8_0:
        return "Q8_0";
    case StoredType::kQ4_K:
        return "Q4_K";
    case StoredType::kQ5_K:
        return "Q5_K";
    case StoredType::kQ6_K:
        return "Q6_K";
    case StoredType::kBF16:
        return "BF16";
    }
    return nullptr; // a number that is none of these
}

std::uint32_t block_elements(StoredType type) {
    switch (type) {
    case StoredType::kQ4_0:
    case StoredType::kQ8_0:
        return 32;
    case StoredType::kQ4_K:
    case StoredType::kQ5_K:
    case StoredType::kQ6_K:
        return 256;
    default:
        return 1;
    }
}

std::uint32_t block_bytes(StoredType type) {
    switch (type) {
    case StoredType::kF32:
        return 4;
    case StoredType::kF16:
    case StoredType::kBF16:
        return 2;
    case StoredType::kQ4_0:
        return 18; // f16 scale, 32 nibbles
    case StoredType::kQ8_0:
        return 34; // f16 scale, 32 int8
    case StoredType::kQ4_K:
        return 144; // f16 scale and minimum, 12 bytes of both for sub-blocks, 256 nibbles
    case StoredType::kQ5_K:
        return 176; // and 256 bits
    case StoredType::kQ6_K:
        return 210; // 256 nibbles, 256 bit pairs, 16 int8 scales, f16 scale
    }
    return 0;
}

bool needs_conversion(StoredType type) {
    return type == StoredType::kQ4_0 || type == StoredType::kQ4_K || type == StoredType::kQ5_K ||
           type == StoredType::kQ6_K;
}

const char* name_of(TensorType type) { return name_of(static_cast<StoredType>(type)); }
std::uint32_t block_elements(TensorType type) { return block_elements(static_cast<StoredType>(type)); }
std::uint32_t block_bytes(TensorType type) { return block_bytes(static_cast<StoredType>(type)); }

/// Reads forward through the header; `left` is the only thing ever compared against a number from the file.
class GgufParser {
public:
    GgufParser(std::span<const std::byte> bytes, std::uint64_t file_size, StoredTypes types)
        : bytes_(bytes), file_size_(file_size), types_(types) {}

    Result<Gguf> run() {
        if (file_size_ < bytes_.size()) return corrupt("more header bytes than the file has");
        if (bytes_.size() < 24)
            return corrupt("too short (" + std::to_string(bytes_.size()) + " bytes) for a header");
        if (take<std::uint32_t>() != kMagic) return corrupt("this is not a GGUF file (wrong magic)");
        const auto version = take<std::uint32_t>();
        if (version != 3) {
            return fail(ErrorCode::kUnsupported,
                        "GGUF: version " + std::to_string(version) +
                            " is not supported, only 3 (little-endian); convert the file anew");
        }
        const auto tensors = take<std::uint64_t>();
        const auto values = take<std::uint64_t>();
        if (tensors > kMaxTensors) return corrupt("absurd number of tensors: " + std::to_string(tensors));
        if (values > kMaxValues)
            return corrupt("absurd number of metadata values: " + std::to_string(values));
        for (std::uint64_t i = 0; i < values; ++i) FLEX_TRY(read_value());
        FLEX_TRY(read_alignment());
        for (std::uint64_t i = 0; i < tensors; ++i) FLEX_TRY(read_tensor());
        FLEX_TRY(place_tensors());
        out_.file_size_ = file_size_;
        return std::move(out_);
    }

private:
    [[nodiscard]] std::uint64_t left() const { return bytes_.size() - at_; }

    /// The caller has checked left().
    template <class T> T take() {
        const T value = load<T>(bytes_.data() + at_);
        at_ += sizeof(T);
        return value;
    }

    Result<std::string_view> read_string(std::uint64_t longest, const char* what) {
        if (left() < 8) return corrupt(std::string("ends inside ") + what);
        const auto length = take<std::uint64_t>();
        if (length > left() || length > longest) {
            return corrupt(std::string("absurd length of ") + what + ": " + std::to_string(length));
        }
        const std::string_view text(reinterpret_cast<const char*>(bytes_.data() + at_), length);
        at_ += length;
        return text;
    }

    Result<GgufValueType> read_type(std::string_view key) {
        if (left() < 4) return corrupt("ends inside the metadata");
        const auto type = take<std::uint32_t>();
        if (type > kLastType)
            return corrupt("unknown type " + std::to_string(type) + " of value '" + printable(key) + "'");
        return static_cast<GgufValueType>(type);
    }

    Status skip_elements(std::string_view key, GgufValueType type, std::uint64_t count) {
        if (type == GgufValueType::kString) {
            if (count > left() / 8) return corrupt("ends inside '" + printable(key) + "'");
            for (std::uint64_t i = 0; i < count; ++i) FLEX_TRY(read_string(left(), "a metadata string"));
            return {};
        }
        const std::uint64_t size = fixed_size(type);
        if (count > left() / size) return corrupt("ends inside '" + printable(key) + "'");
        at_ += count * size;
        return {};
    }

    Status read_value() {
        FLEX_ASSIGN(const std::string_view key, read_string(kMaxKeyBytes, "a metadata key"));
        Gguf::Value value{};
        FLEX_ASSIGN(value.type, read_type(key));
        value.element = value.type;
        if (value.type == GgufValueType::kArray) {
            FLEX_ASSIGN(value.element, read_type(key));
            if (value.element == GgufValueType::kArray) {
                return fail(ErrorCode::kUnsupported, "GGUF: '" + printable(key) + "' is an array of arrays");
            }
            if (left() < 8) return corrupt("ends inside the metadata");
            value.count = take<std::uint64_t>();
            if (value.count > kMaxArray) {
                return corrupt("absurd length of array '" + printable(key) +
                               "': " + std::to_string(value.count));
            }
        }
        value.data = bytes_.data() + at_;
        FLEX_TRY(skip_elements(key, value.element, value.count));
        if (!out_.values_.emplace(key, value).second)
            return corrupt("key '" + printable(key) + "' appears twice");
        return {};
    }

    Status read_alignment() {
        FLEX_ASSIGN(const auto alignment, out_.unsigned_value("general.alignment"));
        const std::uint64_t value = alignment.value_or(32);
        // The specification wants a multiple of 8; a power of two makes every tensor aligned for its type.
        if (value < 8 || value > kMaxAlignment || (value & (value - 1)) != 0) {
            return corrupt("general.alignment " + std::to_string(value) +
                           " is not a power of two from 8 to 65536");
        }
        out_.alignment_ = static_cast<std::uint32_t>(value);
        return {};
    }

    Status read_tensor() {
        FLEX_ASSIGN(const std::string_view name, read_string(kMaxTensorName, "a tensor name"));
        const std::string shown = "tensor '" + printable(name) + "'";
        GgufTensor tensor;
        tensor.name = name;
        if (left() < 4) return corrupt("ends inside the tensor list");
        tensor.rank = take<std::uint32_t>();
        if (tensor.rank < 1 || tensor.rank > 4)
            return corrupt(shown + " has " + std::to_string(tensor.rank) + " dimensions");
        if (left() < 8ull * tensor.rank + 12) return corrupt("ends inside the tensor list");
        std::uint64_t elements = 1;
        for (std::uint32_t i = 0; i < tensor.rank; ++i) {
            tensor.dims[i] = take<std::uint64_t>();
            // No element takes less than half a byte, so the size of the file bounds every product.
            if (tensor.dims[i] == 0 || tensor.dims[i] > 2 * file_size_ / elements) {
                return corrupt(shown + " has an impossible dimension " + std::to_string(tensor.dims[i]));
            }
            elements *= tensor.dims[i];
        }
        FLEX_TRY(read_tensor_type(shown, tensor));
        const std::uint64_t block = block_elements(tensor.stored);
        if (tensor.dims[0] % block != 0) {
            return corrupt(shown + ": row of " + std::to_string(tensor.dims[0]) + " is not a multiple of " +
                           std::to_string(block));
        }
        tensor.bytes =
            elements / block * block_bytes(tensor.stored); // <= 8 * file size: capped below, can not wrap
        tensor.offset = take<std::uint64_t>();
        if (tensor.offset % out_.alignment_ != 0) return corrupt(shown + " is not aligned");
        if (!out_.tensor_by_name_.emplace(name, out_.tensors_.size()).second)
            return corrupt(shown + " appears twice");
        out_.tensors_.push_back(tensor);
        return {};
    }

    Status read_tensor_type(const std::string& shown, GgufTensor& tensor) {
        tensor.type_at = at_;
        const auto type = take<std::uint32_t>();
        tensor.stored = static_cast<StoredType>(type);
        const char* name = name_of(tensor.stored);
        if (name == nullptr) {
            return fail(ErrorCode::kUnsupported,
                        "GGUF: " + shown + " has type " + std::to_string(type) +
                            "; use a file in F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K or Q4_0");
        }
        if (needs_conversion(tensor.stored) && types_ == StoredTypes::kEngine) {
            return fail(ErrorCode::kUnsupported,
                        "GGUF: " + shown + " is " + name +
                            "; seal the file, which converts it to Q8_0 (flexserve seal)");
        }
        tensor.type = needs_conversion(tensor.stored) ? TensorType::kQ8_0 : static_cast<TensorType>(type);
        return {};
    }

    /// Offsets in the list count from the end of the padded header. Tensors may not overlap.
    Status place_tensors() {
        const std::uint64_t mask = out_.alignment_ - 1;
        out_.data_offset_ = (at_ + mask) & ~mask;
        if (out_.data_offset_ > file_size_) {
            if (!out_.tensors_.empty()) return corrupt("ends before the tensor data");
            out_.data_offset_ = file_size_; // a vocabulary-only file need not be padded
        }
        const std::uint64_t data_size = file_size_ - out_.data_offset_;
        std::vector<std::pair<std::uint64_t, std::uint64_t>> extents;
        extents.reserve(out_.tensors_.size());
        for (GgufTensor& tensor : out_.tensors_) {
            if (tensor.offset > data_size || tensor.bytes > data_size - tensor.offset) {
                return corrupt("tensor '" + printable(tensor.name) + "' ends " +
                               "after the end of the file (truncated?)");
            }
            extents.emplace_back(tensor.offset, tensor.offset + tensor.bytes);
            tensor.offset += out_.data_offset_;
        }
        std::sort(extents.begin(), extents.end());
        for (std::size_t i = 1; i < extents.size(); ++i) {
            if (extents[i].first < extents[i - 1].second) return corrupt("two tensors overlap");
        }
        return {};
    }

    std::span<const std::byte> bytes_;
    std::uint64_t file_size_;
    StoredTypes types_;
    std::uint64_t at_ = 0;
    Gguf out_;
};

Result<Gguf> Gguf::parse(std::span<const std::byte> bytes, std::uint64_t file_size, StoredTypes types) {
    // Keeps every size computation of the parser (at most 8 * file_size) inside 64 bits.
    if (file_size > (std::uint64_t{1} << 50)) return corrupt("absurd file size");
    return GgufParser(bytes, file_size, types).run();
}

std::string_view GgufStrings::Iterator::operator*() const {
    return {reinterpret_cast<const char*>(at_ + 8), load<std::uint64_t>(at_)};
}

GgufStrings::Iterator& GgufStrings::Iterator::operator++() {
    at_ += 8 + load<std::uint64_t>(at_); // lengths were checked by skip_elements
    --left_;
    return *this;
}

const Gguf::Value* Gguf::find(std::string_view key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
}

const GgufTensor* Gguf::tensor(std::string_view name) const {
    const auto found = tensor_by_name_.find(name);
    return found == tensor_by_name_.end() ? nullptr : &tensors_[found->second];
}

namespace {

Error wrong_type(std::string_view key, const char* wanted) {
    return corrupt("value '" + printable(key) + "' is not " + wanted);
}

/// Any integer type, widened. Values above the int64 range do not occur in honest files.
std::optional<std::int64_t> integer_at(GgufValueType type, const std::byte* at) {
    switch (type) {
    case GgufValueType::kUint8:
        return load<std::uint8_t>(at);
    case GgufValueType::kInt8:
        return load<std::int8_t>(at);
    case GgufValueType::kUint16:
        return load<std::uint16_t>(at);
    case GgufValueType::kInt16:
        return load<std::int16_t>(at);
    case GgufValueType::kUint32:
        return load<std::uint32_t>(at);
    case GgufValueType::kInt32:
        return load<std::int32_t>(at);
    case GgufValueType::kInt64:
        return load<std::int64_t>(at);
    case GgufValueType::kUint64: {
        const auto value = load<std::uint64_t>(at);
        if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
        return static_cast<std::int64_t>(value);
    }
    default:
        return std::nullopt;
    }
}

} // namespace

Result<std::optional<std::uint64_t>> Gguf::unsigned_value(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::optional<std::uint64_t>();
    const auto number = integer_at(value->type, value->data);
    if (!number || *number < 0) return wrong_type(key, "a non-negative integer");
    return std::optional<std::uint64_t>(static_cast<std::uint64_t>(*number));
}

Result<std::optional<double>> Gguf::float_value(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::optional<double>();
    if (value->type == GgufValueType::kFloat32) return std::optional<double>(load<float>(value->data));
    if (value->type == GgufValueType::kFloat64) return std::optional<double>(load<double>(value->data));
    return wrong_type(key, "a floating-point number");
}

Result<std::optional<bool>> Gguf::bool_value(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::optional<bool>();
    if (value->type != GgufValueType::kBool) return wrong_type(key, "a boolean");
    return std::optional<bool>(load<std::uint8_t>(value->data) != 0);
}

Result<std::optional<std::string_view>> Gguf::string_value(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::optional<std::string_view>();
    if (value->type != GgufValueType::kString) return wrong_type(key, "a string");
    return std::optional<std::string_view>(*GgufStrings::Iterator(value->data, 1));
}

Result<std::optional<GgufStrings>> Gguf::string_array(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::optional<GgufStrings>();
    if (value->type != GgufValueType::kArray || value->element != GgufValueType::kString) {
        return wrong_type(key, "an array of strings");
    }
    return std::optional<GgufStrings>(GgufStrings(value->data, value->count));
}

Result<std::optional<std::vector<std::int64_t>>> Gguf::integer_array(std::string_view key) const {
    using Integers = std::vector<std::int64_t>;
    const Value* value = find(key);
    if (value == nullptr) return std::optional<Integers>();
    if (value->type != GgufValueType::kArray) return wrong_type(key, "an array of integers");
    Integers out;
    out.reserve(value->count);
    const std::uint32_t size = fixed_size(value->element);
    for (std::uint64_t i = 0; i < value->count; ++i) {
        const auto number = integer_at(value->element, value->data + i * size);
        if (!number) return wrong_type(key, "an array of integers");
        out.push_back(*number);
    }
    return std::optional<Integers>(std::move(out));
}

} // namespace flex::engine
