/*
 * /dev/flexnpu: the NPU for programs of the normal world. Jobs are those of abi/npu.h, but
 * flex_npu_region.table holds the number of a mapping of this file; the driver copies the job once, checks
 * header and regions and puts the tables' addresses in, so that a program reaches only its own memory.
 */
#ifndef FLEX_ABI_NPU_LINUX_H
#define FLEX_ABI_NPU_LINUX_H

#include "abi/npu.h"

struct flexnpu_info {
    flex_u32 version; /* FLEX_NPU_VERSION */
    flex_u32 state;   /* enum flex_npu_state */
    flex_u32 sram_bytes, cores, mac_per_us, bytes_per_us, launch_ns, reserved;
};

/* Pins [address, address + bytes), both multiples of 4 KiB, at most FLEX_NPU_REGION_BYTES_MAX. */
struct flexnpu_map {
    flex_u64 address;
    flex_u64 bytes;
    flex_u32 mapping; /* out: its number, never 0 */
    flex_u32 reserved;
};

/*
 * Runs a job and returns its result; waits for the NPU while the secure world has it. Errors: EINVAL (job
 * malformed), ENOENT (no such mapping), ETIMEDOUT (not begun in time), EINTR, EIO (it was reset under way),
 * ENODEV.
 */
struct flexnpu_submit {
    flex_u64 job; /* address */
    flex_u32 job_bytes;
    flex_u32 timeout_ms;
    struct flex_npu_result result; /* out */
};

#define FLEXNPU_IOC_INFO _IOR('f', 0x40, struct flexnpu_info)
#define FLEXNPU_IOC_MAP _IOWR('f', 0x41, struct flexnpu_map)
#define FLEXNPU_IOC_UNMAP _IOW('f', 0x42, flex_u32)
#define FLEXNPU_IOC_SUBMIT _IOWR('f', 0x43, struct flexnpu_submit)

#endif
