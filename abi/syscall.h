/*
 * System calls of the trusted OS beyond the Linux arm64 ones (number in x8, arguments in x0..x5, result or -errno in x0).
 * Only framework/port/ uses them.
 */
#ifndef FLEX_ABI_SYSCALL_H
#define FLEX_ABI_SYSCALL_H

#include "abi/types.h"

enum flex_syscall {
    /* (bytes) -> address of zeroed Flex-Mem, 2 MiB aligned, readable and writable; -ENOMEM when the normal world gives none. */
    FLEX_SYS_MEM_ALLOC = 4096,
    /* (address, bytes): any 4 KiB-aligned part of what ALLOC or LOAD returned. Unmapped, zeroed, released, offered to Linux. */
    FLEX_SYS_MEM_FREE = 4097,
    /*
     * (file descriptor, offset, bytes) -> address of Flex-Mem that holds this part of the file, read by DMA before the frames
     * were protected (load-then-protect). Offset a multiple of 4 KiB. The content is untrusted until authenticated, but
     * cannot change any more.
     */
    FLEX_SYS_MEM_LOAD = 4098,
    /* (label, label bytes <= 64, out 32 bytes): HMAC-SHA256(device root key, label). Never leaves the secure world. */
    FLEX_SYS_DEVICE_KEY = 4099,
    /* (buffer, bytes <= FLEX_SECURE_STORE_BYTES) -> bytes: the program's rollback-proof store in secure flash; 0 when empty. */
    FLEX_SYS_SECURE_STORE_READ = 4100,
    /* (buffer, bytes): replaces it as a whole; a power cut leaves the old or the new content. */
    FLEX_SYS_SECURE_STORE_WRITE = 4101,
    /* (timeout ns, all ones = none) -> bytes the normal world wants back; 0 on timeout. One caller at a time. */
    FLEX_SYS_RECLAIM_WAIT = 4102,
    /* (struct flex_memory_info*) */
    FLEX_SYS_MEMORY_INFO = 4103,
    /*
     * (ms for the normal world to end its jobs, struct flex_npu_grant*) -> 0: the program holds the NPU, just reset, and its registers
     * are mapped. -ENODEV: there is none; -EBUSY: the normal world does not give it now; -EEXIST: held already.
     */
    FLEX_SYS_NPU_ACQUIRE = 4104,
    /* () -> 0. Its registers are unmapped; the device must be done with the program's memory (jobs ended or device reset). */
    FLEX_SYS_NPU_RELEASE = 4105,
    /*
     * (timeout ns, enum flex_npu_wait) -> 0 when the time is over or the NPU's interrupt has come since the last call, 1 when the normal world wants the NPU back (release soon: after the time it allowed it is
     * reset and taken, and the mapping then leads to memory that nobody reads), -ENODEV when the program does not hold it (any more).
     */
    FLEX_SYS_NPU_WAIT = 4106,
    /*
     * (address, n, u64*): bus addresses of the n pages of 4 KiB from address on, all of them Flex-Mem of this program (-EFAULT else). They hold
     * until the memory is freed and as long as the program has the NPU; while it has not, Linux may have a frame moved
     * (FLEX_TOS_MOVE), and then the next grant has another `moves`.
     */
    FLEX_SYS_MEM_ADDRESSES = 4107
};

/* RECALL: interrupts do not end the wait, and are left to whoever waits for them. */
enum flex_npu_wait { FLEX_NPU_WAIT_ANY = 0, FLEX_NPU_WAIT_RECALL = 1 };

struct flex_npu_grant {
    flex_u64 registers; /* where the BAR is mapped, Device memory */
    flex_u64 bytes;
    flex_u32 common, notify, isr, device, notify_multiplier; /* as in struct flex_npu_control */
    flex_u32 moves; /* frames whose address MEM_ADDRESSES had told and that lie elsewhere now; since the program's start, 0 then */
};

#define FLEX_SECURE_STORE_BYTES 16384

struct flex_memory_info {
    flex_u64 frames[8]; /* by enum flex_frame_state, from the frame table */
    flex_u64 mapped_frames;
    flex_u64 pool_frames;
    flex_u64 alloc_ns; /* time spent waiting for frames since the start (RPC, protect, adopt, zero) */
    flex_u64 load_ns;  /* time spent in MEM_LOAD since the start */
};

#endif
