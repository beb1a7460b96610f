/* What the files' system calls share. */
#ifndef FLEX_TOS_KERNEL_FILE_CALLS_HPP
#define FLEX_TOS_KERNEL_FILE_CALLS_HPP

#include "kernel/rpc_engine.hpp"
#include "kernel/system_calls.hpp"
#include "kernel/user_memory.hpp"

namespace flex::tos {

/* In Thread::descriptor: the answer moves no file's position. */
constexpr u64 kNoDescriptor = ~u64{0};

/* The checked result of the request the thread waited for, -EIO when it broke the rules. */
[[nodiscard]] i64 result_of(Thread& thread, RpcAnswer& answer);

/* Steps after the answer: its result is the call's result; only its sign is; `result` bytes go to
 * user_address. */
Next count_answer_step(Thread& thread);
Next sign_answer_step(Thread& thread);
Next data_answer_step(Thread& thread);
/* The first `bytes` of the slot's data to user_address; they are the call's result. */
Next copy_to_program(Thread& thread, u64 bytes);

/* A name from the program. `name` points into `text`. */
struct Path {
    char text[300];
    FileName name;
    Error error = kOk;
};
[[nodiscard]] Access load_path(Path& path, u64 from);
/* Into the slot's data; returns its length. */
u32 put_name(u32 slot, u64 at, Span<const char> name);

} // namespace flex::tos

#endif
