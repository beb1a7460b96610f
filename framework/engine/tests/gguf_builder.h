// Writes GGUF files for tests: honest ones, and the same with any number replaced by another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/gguf.h"

namespace flex::engine::testing {

/// Values first, then tensors, then build(). Little-endian hosts only, like the reader.
class GgufBuilder {
public:
    std::uint32_t magic = 0x46554747, version = 3;
    std::uint32_t alignment = 32;                      // of the data; not written as a value
    std::uint64_t extra_values = 0, extra_tensors = 0; // added to the counts in the header

    template <class T> GgufBuilder& value(std::string_view key, GgufValueType type, T value) {
        begin_value(key, type);
        put(values_, value);
        return *this;
    }
    GgufBuilder& u32(std::string_view key, std::uint32_t v) { return value(key, GgufValueType::kUint32, v); }
    GgufBuilder& f32(std::string_view key, float v) { return value(key, GgufValueType::kFloat32, v); }
    GgufBuilder& boolean(std::string_view key, bool v) {
        return value(key, GgufValueType::kBool, static_cast<std::uint8_t>(v));
    }
    GgufBuilder& string(std::string_view key, std::string_view v) {
        begin_value(key, GgufValueType::kString);
        put_string(values_, v);
        return *this;
    }
    GgufBuilder& strings(std::string_view key, const std::vector<std::string>& all) {
        begin_array(key, GgufValueType::kString, all.size());
        for (const std::string& v : all) put_string(values_, v);
        return *this;
    }
    template <class T>
    GgufBuilder& array(std::string_view key, GgufValueType element, const std::vector<T>& all) {
        begin_array(key, element, all.size());
        for (const T v : all) put(values_, v);
        return *this;
    }
    /// The head of an array with any count; nothing after it.
    GgufBuilder& begin_array(std::string_view key, GgufValueType element, std::uint64_t count) {
        begin_value(key, GgufValueType::kArray);
        put(values_, static_cast<std::uint32_t>(element));
        put(values_, count);
        return *this;
    }

    GgufBuilder& tensor(std::string_view name, std::vector<std::uint64_t> dims, TensorType type,
                        std::vector<std::byte> data) {
        const std::uint64_t offset = data_.size();
        data_.insert(data_.end(), data.begin(), data.end());
        data_.resize((data_.size() + alignment - 1) / alignment * alignment);
        return raw_tensor(name, std::move(dims), static_cast<std::uint32_t>(type), offset);
    }
    /// An entry of the tensor list with any content; no data.
    GgufBuilder& raw_tensor(std::string_view name, std::vector<std::uint64_t> dims, std::uint32_t type,
                            std::uint64_t offset) {
        ++tensor_count_;
        put_string(tensors_, name);
        put(tensors_, static_cast<std::uint32_t>(dims.size()));
        for (const std::uint64_t dim : dims) put(tensors_, dim);
        put(tensors_, type);
        put(tensors_, offset);
        return *this;
    }

    [[nodiscard]] std::vector<std::byte> build() const {
        std::vector<std::byte> out;
        put(out, magic);
        put(out, version);
        put(out, tensor_count_ + extra_tensors);
        put(out, value_count_ + extra_values);
        out.insert(out.end(), values_.begin(), values_.end());
        out.insert(out.end(), tensors_.begin(), tensors_.end());
        out.resize((out.size() + alignment - 1) / alignment * alignment);
        out.insert(out.end(), data_.begin(), data_.end());
        return out;
    }

private:
    using Bytes = std::vector<std::byte>;
    template <class T> static void put(Bytes& out, T value) {
        const auto* at = reinterpret_cast<const std::byte*>(&value);
        out.insert(out.end(), at, at + sizeof value);
    }
    static void put_string(Bytes& out, std::string_view text) {
        put(out, static_cast<std::uint64_t>(text.size()));
        const auto* at = reinterpret_cast<const std::byte*>(text.data());
        out.insert(out.end(), at, at + text.size());
    }
    void begin_value(std::string_view key, GgufValueType type) {
        ++value_count_;
        put_string(values_, key);
        put(values_, static_cast<std::uint32_t>(type));
    }

    Bytes values_, tensors_, data_;
    std::uint64_t value_count_ = 0, tensor_count_ = 0;
};

} // namespace flex::engine::testing
