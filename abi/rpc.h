/*
 * RPC: what the secure world asks of the normal world. Everything in the shared area is untrusted, on both sides.
 *
 * The shared area is FLEX_RPC_SLOTS slots of FLEX_RPC_SLOT_BYTES. The trusted OS owns a free slot; it fills one in and posts it
 * (a bit in x1 of a LEND result). The normal world owns a posted slot; it writes the answer and completes it (a bit in x1 of
 * a later LEND call). The trusted OS remembers in secure memory which slots are out and what was asked; it copies an answer
 * once and checks the copy. A completion of a slot that is not out is counted and ignored.
 *
 * Lengths are bytes. `result` is >= 0, or a negative Linux errno.
 */
#ifndef FLEX_ABI_RPC_H
#define FLEX_ABI_RPC_H

#include "abi/types.h"

#define FLEX_RPC_SLOTS 32
#define FLEX_RPC_SLOT_BYTES 65536
#define FLEX_RPC_AREA_BYTES (FLEX_RPC_SLOTS * FLEX_RPC_SLOT_BYTES)
#define FLEX_RPC_DATA_BYTES (FLEX_RPC_SLOT_BYTES - 128)
#define FLEX_RPC_NAME_MAX 255

struct flex_rpc_slot {
    flex_u32 op;       /* enum flex_rpc_op */
    flex_u32 data_len; /* bytes of data that are valid: of the request, then of the answer */
    flex_u64 arg[6];
    flex_s64 result;
    flex_u64 out[4]; /* further results */
    flex_u8 reserved[32];
    flex_u8 data[FLEX_RPC_DATA_BYTES];
};
FLEX_STATIC_ASSERT(sizeof(struct flex_rpc_slot) == FLEX_RPC_SLOT_BYTES, "a slot is 64 KiB");

/* Roots of the two file trees the normal world keeps. Names within them: no '/', no leading '.', 1..FLEX_RPC_NAME_MAX bytes. */
enum flex_rpc_root { FLEX_ROOT_STORE = 0 /* read-only: packages */, FLEX_ROOT_DATA = 1 /* writable */ };

enum flex_rpc_open_flags { FLEX_OPEN_WRITE = 1, FLEX_OPEN_CREATE = 2, FLEX_OPEN_TRUNCATE = 4, FLEX_OPEN_EXCLUSIVE = 8 };

enum flex_rpc_op {
    /* Memory: served inside the kernel driver. Range lists are arrays of flex_range_t in data. */
    FLEX_RPC_ALLOC = 1,     /* arg0 bytes (multiple of 4 KiB, <= 16 MiB) -> result = number of ranges, all FLEX, in data; may cover less */
    FLEX_RPC_GIVE_BACK = 2, /* arg0 number of ranges in data, all RELEASED -> result 0 once the driver has taken note */
    FLEX_RPC_LOAD = 3,      /* arg0 file handle, arg1 offset, arg2 bytes (<= 16 MiB; both multiples of 4 KiB, end of file is zero-filled):
                               file content is read into fresh frames, which are then protected -> as ALLOC (must cover all),
                               out[0] = bytes of the file that were read. Ranges are in file order. */

    /* The NPU (abi/npu.h): served inside the kernel driver. */
    FLEX_RPC_NPU_GIVE = 4,   /* arg0 ms to wait for normal-world jobs to end -> result 0 once it is GIVEN, -ENODEV, -EBUSY */
    FLEX_RPC_NPU_RETURN = 5, /* it is RETURNED -> result 0 once the driver has taken note */

    /* Files */
    FLEX_RPC_OPEN = 16,   /* arg0 root, arg1 flags, name in data -> result = handle, out[0] = size */
    FLEX_RPC_CLOSE = 17,  /* arg0 handle */
    FLEX_RPC_READ = 18,   /* arg0 handle, arg1 offset, arg2 bytes <= FLEX_RPC_DATA_BYTES -> result = bytes in data */
    FLEX_RPC_WRITE = 19,  /* arg0 handle, arg1 offset, bytes in data -> result = bytes written */
    FLEX_RPC_SIZE = 20,   /* arg0 handle -> result = size */
    FLEX_RPC_SYNC = 21,   /* arg0 handle */
    FLEX_RPC_RENAME = 22, /* arg0 root, data = old name, NUL, new name: replaces atomically, then syncs the folder */
    FLEX_RPC_UNLINK = 23, /* arg0 root, name in data */
    FLEX_RPC_LIST = 24,   /* arg0 root, arg1 index of the first entry -> result = number of names, NUL-terminated in data; 0 at the end */
    FLEX_RPC_TRUNCATE = 25, /* arg0 handle, arg1 size */

    /* Byte streams (TCP on the device's own network) */
    FLEX_RPC_LISTEN = 32,   /* arg0 port, arg1 backlog -> result = handle */
    FLEX_RPC_ACCEPT = 33,   /* arg0 handle, arg1 timeout ms (-1 none) -> result = new handle, out[0] = peer IPv4 << 16 | port; -EAGAIN on timeout */
    FLEX_RPC_RECEIVE = 34,  /* arg0 handle, arg1 bytes, arg2 timeout ms -> result = bytes in data, 0 at the end of the stream */
    FLEX_RPC_SEND = 35,     /* arg0 handle, bytes in data, arg2 timeout ms -> result = bytes sent */
    FLEX_RPC_POLL = 36,     /* arg0 number n <= 32, arg1 timeout ms; data = n x {u32 handle, u32 events (POLLIN/POLLOUT)}
                               -> result = number ready, data = the same with the events found */
    FLEX_RPC_SHUTDOWN = 37, /* arg0 handle, arg1 how (0 read, 1 write, 2 both) */
    /* streams are closed by FLEX_RPC_CLOSE; handles of files and streams share one number space, 0..65535 */

    /* Others */
    FLEX_RPC_TIME = 48, /* -> out[0] = ns since 1970 by the normal world's clock (untrusted) */
    FLEX_RPC_LOG = 49   /* data = text, no secrets: written to the device's log */
};

#endif
