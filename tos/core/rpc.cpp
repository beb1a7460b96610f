#include "core/rpc.hpp"

#include "abi/frame.h"
#include "core/memory.hpp"

namespace flex::tos {

namespace {

/* `result` ranges in 8 bytes each, and no more of them than there are frames to give. */
[[maybe_unused]] bool ranges_valid(const RpcAnswer& answer, u64 bytes) {
    const u64 count = static_cast<u64>(answer.result);
    return count >= 1 && count <= bytes / kPageBytes && count <= FLEX_RPC_DATA_BYTES / sizeof(flex_range_t) &&
           answer.data_len == count * sizeof(flex_range_t);
}

[[maybe_unused]] bool handle_valid(const RpcAnswer& answer) {
    return static_cast<u64>(answer.result) <= kHandleMax;
}

[[maybe_unused]] bool data_valid(const RpcAnswer& answer, u64 asked) {
    return static_cast<u64>(answer.result) <= asked && answer.data_len == static_cast<u64>(answer.result);
}

} // namespace

bool answer_is_valid(const RpcRequest& request, const RpcAnswer& answer) {
#ifdef FLEX_WITHOUT_RPC_CHECK
    /* The defence-removed build: every answer is believed. */
    (void)request, (void)answer;
    return true;
#else
    if (answer.result < 0) return answer.result >= kErrorLowest;
    const u64 result = static_cast<u64>(answer.result);
    if (answer.data_len > FLEX_RPC_DATA_BYTES) return false;
    switch (request.op) {
    case FLEX_RPC_ALLOC:
        return ranges_valid(answer, request.arg[0]);
    case FLEX_RPC_LOAD:
        return ranges_valid(answer, request.arg[2]) && answer.out[0] <= request.arg[2];
    case FLEX_RPC_OPEN:
        return handle_valid(answer) && answer.out[0] <= kFileBytesMax;
    case FLEX_RPC_LISTEN:
        return handle_valid(answer);
    case FLEX_RPC_ACCEPT:
        return handle_valid(answer) && answer.out[0] < u64{1} << 48;
    case FLEX_RPC_READ:
        return data_valid(answer, request.arg[2]);
    case FLEX_RPC_RECEIVE:
        return data_valid(answer, request.arg[1]);
    case FLEX_RPC_WRITE:
    case FLEX_RPC_SEND:
        return result <= request.data_len;
    case FLEX_RPC_SIZE:
        return result <= kFileBytesMax;
    case FLEX_RPC_POLL:
        return result <= request.arg[0] && answer.data_len == request.arg[0] * 8;
    case FLEX_RPC_LIST:
        return result <= answer.data_len;
    case FLEX_RPC_NPU_GIVE:
    case FLEX_RPC_NPU_RETURN:
    case FLEX_RPC_GIVE_BACK:
    case FLEX_RPC_CLOSE:
    case FLEX_RPC_SYNC:
    case FLEX_RPC_RENAME:
    case FLEX_RPC_UNLINK:
    case FLEX_RPC_TRUNCATE:
    case FLEX_RPC_SHUTDOWN:
    case FLEX_RPC_TIME:
    case FLEX_RPC_LOG:
        return true; /* nothing of the answer but its sign is used; TIME is untrusted whatever it says */
    default:
        return false;
    }
#endif
}

bool name_is_valid(Span<const char> name) {
    if (name.size == 0 || name.size > FLEX_RPC_NAME_MAX || name[0] == '.') return false;
    for (const char c : name) {
        if (c == '/' || c == '\0') return false;
    }
    return true;
}

void RpcSlots::clear() {
    free_ = ~u32{0};
    posted_ = out_ = 0;
}

u32 RpcSlots::acquire(u32 owner, bool may_use_reserved) {
    if (free_slots() <= (may_use_reserved ? 0 : kReserved)) return kNone;
    const u32 slot = static_cast<u32>(__builtin_ctz(free_));
    free_ &= free_ - 1;
    slots_[slot].owner = owner;
    slots_[slot].abandoned = false;
    return slot;
}

void RpcSlots::post(u32 slot, const RpcRequest& request) {
    slots_[slot].request = request;
    posted_ |= u32{1} << slot;
}

u32 RpcSlots::report() {
    const u32 mask = posted_;
    out_ |= mask;
    posted_ = 0;
    return mask;
}

u32 RpcSlots::complete(u32 mask, u32& refused) {
    const u32 done = mask & out_;
    refused += ones_in(mask & ~out_);
    out_ &= ~done;
    return done;
}

void RpcSlots::release(u32 slot) { free_ |= u32{1} << slot; }

void RpcSlots::abandon(u32 slot) { slots_[slot].abandoned = true; }

} // namespace flex::tos
