// One RPC of abi/rpc.h as the agent sees it.
#ifndef FLEX_LINUX_AGENT_REQUEST_H
#define FLEX_LINUX_AGENT_REQUEST_H

#include "abi/rpc.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace flex::agent {

// A copy of the slot's head, taken once, and the slot's data in place. The answer is written by the member
// functions.
class Request {
public:
    explicit Request(flex_rpc_slot& slot) : slot_(slot), op_(slot.op), data_bytes_(slot.data_len) {
        std::copy(std::begin(slot.arg), std::end(slot.arg), arguments_.begin());
        data_bytes_ = std::min<std::uint32_t>(data_bytes_, FLEX_RPC_DATA_BYTES);
    }

    [[nodiscard]] std::uint32_t op() const { return op_; }
    [[nodiscard]] std::uint64_t argument(std::size_t index) const { return arguments_[index]; }
    [[nodiscard]] std::span<const std::uint8_t> data() const { return {slot_.data, data_bytes_}; }
    [[nodiscard]] std::string_view text() const {
        return {reinterpret_cast<const char*>(slot_.data), data_bytes_};
    }
    // Where the answer's data goes: the whole slot.
    [[nodiscard]] std::span<std::uint8_t> answer() { return {slot_.data, FLEX_RPC_DATA_BYTES}; }

    void set_out(std::size_t index, std::uint64_t value) { slot_.out[index] = value; }
    // Ends the answer: `data_bytes` of it are valid.
    void finish(std::int64_t result, std::size_t data_bytes = 0) {
        slot_.data_len = static_cast<flex_u32>(data_bytes);
        slot_.result = result;
    }

private:
    flex_rpc_slot& slot_;
    std::uint32_t op_;
    std::uint32_t data_bytes_;
    std::array<std::uint64_t, 6> arguments_{};
};

} // namespace flex::agent

#endif
