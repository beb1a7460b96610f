#include "npu/model/dma.h"

#include <algorithm>
#include <cstring>

namespace flex::npu::model {

namespace {

/// What moves while one window is open: whoever takes memory away waits no longer than for this.
constexpr std::uint64_t kBurst = 64 << 10;

/// A carrier that grants less than a word, or shifts it, is not one that words can be shared through.
bool holds_word(const Window& window) {
    return window.bytes >= 8 && reinterpret_cast<std::uintptr_t>(window.data) % 8 == 0;
}

/// Pages behind the one of `at` that the command will come to.
class RestOfOperand final : public Ahead {
public:
    RestOfOperand(const Region& region, std::uint64_t at, std::uint64_t end)
        : region_(region), next_(at / FLEX_NPU_PAGE * FLEX_NPU_PAGE + FLEX_NPU_PAGE), end_(end) {}
    std::size_t pages(std::span<std::uint64_t> out) const override { return region_.pages(next_, end_, out); }

private:
    const Region& region_;
    const std::uint64_t next_, end_;
};

} // namespace

Window Dma::open(const Region::Place& place, std::uint64_t bytes, Access access, Outcome& outcome,
                 const Ahead* ahead) {
    if (stop_.load(std::memory_order_relaxed)) {
        outcome = {FLEX_NPU_ABORTED};
        return {};
    }
    const Window window = memory_.open(place.address, std::min(place.bytes, bytes), access, ahead);
    if (window.status == Window::Status::kRefused) outcome = {FLEX_NPU_FAULT, place.address};
    if (window.status == Window::Status::kInterrupted) outcome = {FLEX_NPU_ABORTED};
    return window;
}

Outcome Dma::move(const Strips& strips, std::byte* sram, std::size_t sram_stride, Access access) {
    const std::uint64_t end = strips.offset + (strips.count - 1) * strips.stride + strips.bytes;
    Window window;
    std::uint64_t first = 0, behind = 0; // offsets that the window shows
    std::uint64_t burst = 0;
    for (std::uint64_t i = 0; i < strips.count; ++i) {
        std::uint64_t at = strips.offset + i * strips.stride, left = strips.bytes;
        std::byte* piece = sram + i * sram_stride;
        while (left > 0) {
            if (at >= behind || burst >= kBurst) {
                if (window.status == Window::Status::kOpen) memory_.close();
                Outcome outcome;
                const RestOfOperand rest(*strips.region, at, std::max(at + left, strips.operand_end));
                window = open(strips.region->find(at), end - at, access, outcome, &rest);
                if (!outcome.ok()) return outcome;
                first = at;
                behind = at + window.bytes;
                burst = 0;
            }
            const std::uint64_t some = std::min({left, behind - at, kBurst - burst});
            std::byte* const there = window.data + (at - first);
            if (access == Access::kRead)
                std::memcpy(piece, there, some);
            else
                std::memcpy(there, piece, some);
            piece += some;
            at += some;
            left -= some;
            burst += some;
        }
    }
    if (window.status == Window::Status::kOpen) memory_.close();
    moved_.fetch_add(strips.count * strips.bytes, std::memory_order_relaxed);
    return {};
}

Outcome Dma::in(const Strips& from, void* sram, std::size_t sram_stride) {
    return move(from, static_cast<std::byte*>(sram), sram_stride, Access::kRead);
}

Outcome Dma::out(const void* sram, const Strips& to, std::size_t sram_stride) {
    return move(to, const_cast<std::byte*>(static_cast<const std::byte*>(sram)), sram_stride, Access::kWrite);
}

Outcome Dma::load(const Region& region, std::uint64_t offset, std::uint64_t& word) {
    Outcome outcome;
    const Window window = open(region.find(offset), sizeof word, Access::kRead, outcome);
    if (!outcome.ok()) return outcome;
    const bool whole = holds_word(window);
    if (whole) word = __atomic_load_n(reinterpret_cast<const std::uint64_t*>(window.data), __ATOMIC_ACQUIRE);
    memory_.close();
    if (!whole) return {FLEX_NPU_FAULT, region.find(offset).address};
    moved_.fetch_add(sizeof word, std::memory_order_relaxed);
    return {};
}

Outcome Dma::store(const Region& region, std::uint64_t offset, std::uint64_t word) {
    Outcome outcome;
    const Window window = open(region.find(offset), sizeof word, Access::kWrite, outcome);
    if (!outcome.ok()) return outcome;
    const bool whole = holds_word(window);
    if (whole) __atomic_store_n(reinterpret_cast<std::uint64_t*>(window.data), word, __ATOMIC_RELEASE);
    memory_.close();
    if (!whole) return {FLEX_NPU_FAULT, region.find(offset).address};
    moved_.fetch_add(sizeof word, std::memory_order_relaxed);
    return {};
}

} // namespace flex::npu::model
