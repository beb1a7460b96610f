// What the device's tests share: an NPU with some memory, and numbers to put there.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <random>

#include "engine/kernels/exact.h"
#include "engine/kernels/q8_layout.h"
#include "engine/packing.h"
#include "npu/model/device.h"
#include "npu/tests/arena_bus.h"

namespace flex::npu::model::testing {

using Floats = std::vector<float>;

class Random {
public:
    explicit Random(unsigned seed) : engine_(seed) {}
    std::uint32_t below(std::size_t n) { return static_cast<std::uint32_t>(engine_() % n); }
    std::uint32_t word() { return static_cast<std::uint32_t>(engine_()); }
    bool coin() { return engine_() % 2 == 0; }
    /// Mostly ordinary; some zero, tiny, subnormal, or large.
    float number() {
        switch (below(24)) {
        case 0:
            return 0.0F;
        case 1:
            return -0.0F;
        case 2:
            return 1e-42F;
        case 3:
            return 3e4F * unit_(engine_);
        default:
            return 4.0F * unit_(engine_);
        }
    }
    Floats numbers(std::size_t count) {
        Floats out(count);
        for (float& x : out) x = number();
        return out;
    }
    /// Packed, with every weight and scales up to `largest`; rows that are not there are zero, as in files.
    std::vector<std::byte> matrix(std::size_t rows, std::size_t columns, float largest = 0.05F) {
        std::vector<std::byte> stored, packed(engine::packed_bytes(rows, columns));
        for (std::size_t block = 0; block < rows * columns / 32; ++block) {
            const std::uint16_t scale = engine::f32_to_f16(largest * unit_(engine_));
            stored.push_back(static_cast<std::byte>(scale & 0xff));
            stored.push_back(static_cast<std::byte>(scale >> 8));
            for (int i = 0; i < 32; ++i) stored.push_back(static_cast<std::byte>(word()));
        }
        for (std::size_t r = 0; r < rows; r += engine::kPanelRows) {
            engine::pack_panel(stored.data() + r * (columns / 32 * 34),
                               std::min(engine::kPanelRows, rows - r), columns,
                               packed.data() + r / engine::kPanelRows * engine::panel_bytes(columns));
        }
        return packed;
    }

private:
    std::mt19937 engine_;
    std::uniform_real_distribution<float> unit_{-1.0F, 1.0F};
};

template <class T> bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// A device with its own memory, of which a test takes regions.
struct Npu {
    explicit Npu(std::size_t pages, DeviceOptions options = {})
        : bus(pages), pages(bus), device(bus, *engine::select_kernels(), options) {}

    flex_npu_result run(const TestJob& job) { return device.run(job.bytes()); }

    ArenaBus bus;
    Pages pages;
    Device device;
};

inline flex_npu_command command(std::uint32_t op, std::uint32_t count = 1) {
    flex_npu_command c{};
    c.op = op;
    c.count = count;
    return c;
}

/// One region whose operands are handed out one behind the other, with gaps, and rows that may lie apart.
class Operands {
public:
    Operands(Npu& npu, Random& random, std::uint64_t bytes)
        : random_(random), region_(npu.pages, bytes, random.coin()) {}

    TestRegion& region() { return region_; }

    flex_npu_operand place(std::uint64_t element, std::uint64_t rows, std::uint64_t elements,
                           std::uint64_t alignment = 0) {
        alignment = alignment == 0 ? element : alignment;
        const std::uint64_t stride = random_.coin() ? 0 : elements + random_.below(9);
        next_ = (next_ + random_.below(100) + alignment - 1) / alignment * alignment;
        const flex_npu_operand operand{0, static_cast<std::uint32_t>(stride), next_};
        next_ += ((rows - 1) * (stride == 0 ? elements : stride) + elements) * element;
        if (next_ > region_.abi().bytes) ADD_FAILURE() << "the region is too small for this test";
        return operand;
    }
    flex_npu_operand floats(const Floats& values, std::uint64_t rows) {
        const std::uint64_t columns = values.size() / rows;
        const flex_npu_operand operand = place(4, rows, columns);
        const std::uint64_t stride = operand.stride == 0 ? columns : operand.stride;
        for (std::uint64_t r = 0; r < rows; ++r)
            region_.put(operand.offset + r * stride * 4, &values[r * columns], columns * 4);
        return operand;
    }
    template <class T> flex_npu_operand bytes(const std::vector<T>& values, std::uint64_t alignment) {
        flex_npu_operand operand = place(1, 1, values.size() * sizeof(T), alignment);
        operand.stride = 0;
        region_.put(operand.offset, values);
        return operand;
    }
    Floats read(const flex_npu_operand& operand, std::uint64_t rows, std::uint64_t columns) {
        const std::uint64_t stride = operand.stride == 0 ? columns : operand.stride;
        Floats out;
        for (std::uint64_t r = 0; r < rows; ++r) {
            const Floats row = region_.get<float>(operand.offset + r * stride * 4, columns);
            out.insert(out.end(), row.begin(), row.end());
        }
        return out;
    }

private:
    Random& random_;
    TestRegion region_;
    std::uint64_t next_ = 0;
};

} // namespace flex::npu::model::testing
