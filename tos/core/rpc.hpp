/*
 * The trusted OS's side of abi/rpc.h without the shared memory itself: which slots are out, what was asked
 * (kept in secure memory), and whether an answer may be believed. `RpcAnswer` is a copy, made once; nothing
 * here looks at shared memory.
 */
#ifndef FLEX_TOS_CORE_RPC_HPP
#define FLEX_TOS_CORE_RPC_HPP

#include "abi/rpc.h"
#include "core/types.hpp"

namespace flex::tos {

struct RpcRequest {
    u32 op = 0;
    u32 data_len = 0;
    u64 arg[6] = {};
};

struct RpcAnswer {
    i64 result = 0;
    u32 data_len = 0;
    u64 out[4] = {};
};

constexpr u64 kHandleMax = 65535;
constexpr u64 kFileBytesMax = u64{1} << 62;

/* Pure: does the answer keep to what abi/rpc.h says about this request? A negative result (an errno) is a
 * good answer. */
[[nodiscard]] bool answer_is_valid(const RpcRequest& request, const RpcAnswer& answer);
/* A file name as both sides allow it: 1..FLEX_RPC_NAME_MAX bytes, no '/', no NUL, no leading '.'. */
[[nodiscard]] bool name_is_valid(Span<const char> name);

/*
 * A slot is Free, Posted (the driver has not been told yet), Out (it has), or Done. Only Out slots can be
 * completed. Abandoned slots have no owner any more and become free when they are completed. Not thread-safe:
 * the kernel's lock is held.
 */
class RpcSlots {
public:
    static constexpr u32 kNone = FLEX_RPC_SLOTS;
    /* Only memory requests may take the last ones, so that threads waiting for the network never stop the
     * memory. */
    static constexpr u32 kReserved = 4;

    void clear();
    [[nodiscard]] u32 acquire(u32 owner, bool may_use_reserved);
    void post(u32 slot, const RpcRequest& request);
    /* The posted slots, which the caller now tells the driver about. */
    [[nodiscard]] u32 report();
    [[nodiscard]] bool anything_to_report() const { return posted_ != 0; }
    /* Of the slots in `mask` those that were out: they are done now. The rest is counted as refused. */
    [[nodiscard]] u32 complete(u32 mask, u32& refused);
    void release(u32 slot);
    /* Its owner is gone: nobody will look at the answer. */
    void abandon(u32 slot);

    [[nodiscard]] u32 owner(u32 slot) const { return slots_[slot].owner; }
    [[nodiscard]] bool abandoned(u32 slot) const { return slots_[slot].abandoned; }
    [[nodiscard]] const RpcRequest& request(u32 slot) const { return slots_[slot].request; }
    [[nodiscard]] u32 free_slots() const { return ones_in(free_); }

private:
    struct Slot {
        RpcRequest request;
        u32 owner = 0;
        bool abandoned = false;
    };
    Slot slots_[FLEX_RPC_SLOTS];
    u32 free_ = 0, posted_ = 0, out_ = 0;
};

} // namespace flex::tos

#endif
