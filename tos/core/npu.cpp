#include "core/npu.hpp"

namespace flex::tos {

bool npu_registers_valid(const flex_npu_control& where, u64 low, u64 high) {
    /* Least lengths, Virtio 1.2, 4.1.4: the common structure, a notification word, the interrupt status, the
     * words of abi/npu.h. */
    const struct {
        u64 offset, bytes;
    } structures[] = {{where.common, 56}, {where.notify, 2}, {where.isr, 1}, {where.device, 12}};

    if (where.bytes == 0 || where.bytes > kNpuBytesMax ||
        !is_aligned(where.registers | where.bytes, kPageBytes))
        return false;
    if (where.registers < low || where.registers >= high || where.bytes > high - where.registers)
        return false;
    for (const auto& s : structures) {
        if (!is_aligned(s.offset, 4) || s.offset + s.bytes > where.bytes) return false;
    }
    return true;
}

} // namespace flex::tos
