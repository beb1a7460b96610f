/*
 * The NPU: its registers, and the jobs that are given to it. docs/npu.md has the life cycle.
 *
 * The device is a virtio device (Virtual I/O Device Version 1.2, over PCI) behind the SMMU. All four queues
 * take jobs; the device runs one job at a time, a queue's jobs in order. A job is one chain: what the device
 * reads is a job (below, at most FLEX_NPU_JOB_BYTES, over as many descriptors as one likes), what it writes
 * is one flex_npu_result.
 *
 * Addresses in jobs are bus addresses (the SMMU's input). Operands do not name them directly: they are
 * offsets in a region, and a region is a two-level table of pages, so that memory need not be contiguous. The
 * device reads operands into its SRAM, computes there, and writes results out again. Every field is
 * little-endian. Fields called `reserved` are zero.
 */
#ifndef FLEX_ABI_NPU_H
#define FLEX_ABI_NPU_H

#include "abi/types.h"

#define FLEX_NPU_VERSION 1u
#define FLEX_NPU_ID 0x55504e46u /* "FNPU" */

/*
 * ---- Registers ----
 * Three words of device configuration space. The carrier passes every write on as all three words, so writing
 * a word cannot have an effect by itself (but for a reset): an access happens when ACCESS changes. A driver writes DATA, then
 * ACCESS with another sequence number than before, and reads VALUE (the register's content after the access).
 */
enum flex_npu_configuration {
    FLEX_NPU_CONFIG_ACCESS = 0, /* FLEX_NPU_ACCESS(...) */
    FLEX_NPU_CONFIG_DATA = 4,   /* what an access that writes will write */
    FLEX_NPU_CONFIG_VALUE = 8   /* read-only */
};
#define FLEX_NPU_ACCESS_WRITE 0x80000000u
/*
 * A word with this bit resets, whatever ACCESS was before: it stops the job (status ABORTED), forgets translations, zeroes SRAM, counters,
 * scratch and the three words. Reading ACCESS as 0 afterwards proves that it happened, and takes the bit out of the carrier's copy.
 */
#define FLEX_NPU_ACCESS_RESET 0x40000000u
/* bit 31 write; bit 30 reset; bits 23..16 sequence number; bits 15..0 enum flex_npu_register */
#define FLEX_NPU_ACCESS(sequence, reg) (((flex_u32)((sequence)&0xffu) << 16) | ((flex_u32)(reg)&0xffffu))

enum flex_npu_register {
    FLEX_NPU_REG_ID = 0,      /* FLEX_NPU_ID */
    FLEX_NPU_REG_VERSION = 1, /* FLEX_NPU_VERSION */
    FLEX_NPU_REG_STATUS = 2,  /* bit 0: a job runs */
    FLEX_NPU_REG_POWER = 4,   /* 0 off: jobs end with FLEX_NPU_OFF, SRAM is lost; 1 on (after reset) */
    FLEX_NPU_REG_SRAM_BYTES = 5,
    FLEX_NPU_REG_CORES = 6,
    FLEX_NPU_REG_MAC_PER_US = 7, /* of the performance model, int8; 0: unlimited */
    FLEX_NPU_REG_BYTES_PER_US = 8,
    FLEX_NPU_REG_LAUNCH_NS = 9,
    FLEX_NPU_REG_JOBS = 10,       /* ended since reset */
    FLEX_NPU_REG_FAULTS = 11,     /* accesses that the SMMU refused since reset */
    FLEX_NPU_REG_CYCLES_LOW = 12, /* busy, since reset; cycles of FLEX_NPU_CLOCK_HZ */
    FLEX_NPU_REG_CYCLES_HIGH = 13,
    FLEX_NPU_REG_SRAM_ADDRESS =
        14, /* debug window: byte offset, multiple of 4, counts on with every access of SRAM_DATA */
    FLEX_NPU_REG_SRAM_DATA = 15,
    FLEX_NPU_REG_SCRATCH = 16 /* 16 registers free for a driver's use */
};
#define FLEX_NPU_SCRATCH_REGISTERS 16
#define FLEX_NPU_CLOCK_HZ 1000000000u /* cycles are nanoseconds of the performance model */

/*
 * ---- Regions ----
 * `table` is the bus address of one page of 512 entries; entry i describes bytes [i * 2 MiB, (i + 1) * 2 MiB)
 * of the region: 0                     nothing there: an access ends the job with FLEX_NPU_BAD_OPERAND
 *   address | 1           2 MiB that lie together, address aligned to 4 KiB
 *   address               a page of 512 entries, each the bus address of 4 KiB (or 0: nothing there)
 */
#define FLEX_NPU_PAGE 4096u
#define FLEX_NPU_ENTRIES 512u
#define FLEX_NPU_BLOCK (FLEX_NPU_PAGE * FLEX_NPU_ENTRIES)
#define FLEX_NPU_REGION_BYTES_MAX (FLEX_U64(1) << 30)
#define FLEX_NPU_ENTRY_BLOCK FLEX_U64(1)

struct flex_npu_region {
    flex_u64 table; /* bus address, aligned to 4 KiB */
    flex_u64 bytes; /* 1..FLEX_NPU_REGION_BYTES_MAX: accesses end before it */
};

/* ---- Jobs ---- */
#define FLEX_NPU_JOB_MAGIC 0x424f4a4eu /* "NJOB" */
#define FLEX_NPU_JOB_BYTES (1u << 20)
#define FLEX_NPU_REGIONS_MAX 64u
#define FLEX_NPU_COMMANDS_MAX 4096u

/* Followed by regions[regions], then commands[commands]; nothing else. */
struct flex_npu_job {
    flex_u32 magic;
    flex_u32 version;
    flex_u32 regions;  /* 1..FLEX_NPU_REGIONS_MAX */
    flex_u32 commands; /* 1..FLEX_NPU_COMMANDS_MAX */
    flex_u64 cookie;   /* comes back in the result */
    flex_u64 reserved;
};

struct flex_npu_operand {
    flex_u32 region;
    flex_u32 stride; /* elements from one row to the next; 0: the row's length */
    flex_u64 offset; /* bytes, aligned to the element */
};

enum flex_npu_op {
    /*
     * Arithmetic is that of framework/engine/kernels/kernels.h, so that the NPU and the CPU give the same
     * bits. f32 unless said; [T] means `count` rows. Matrices are packed Q8_0 panels
     * (framework/engine/kernels/q8_layout.h), 64-byte aligned, of rows x columns; columns a multiple of 32.
     * Only y is written.
     */
    FLEX_NPU_NOP = 0,
    /* y[T][columns] = row ids[t] of the matrix. w: matrix; x: u32 ids[T], each < rows */
    FLEX_NPU_EMBED = 1,
    /* y[T][columns] = x / sqrt(mean(x^2) + scalar) * w. x: [T][columns]; w: [columns]. x and y may be the
       same. */
    FLEX_NPU_RMS_NORM = 2,
    /*
     * y[T][rows] = matrix . x (activations quantised per block of 32). w: matrix, x: [T][columns].
     * FLEX_NPU_ACCUMULATE: y += matrix . x        FLEX_NPU_GATE: y = silu(z) * (matrix . x), z: [T][rows]
     */
    FLEX_NPU_MATMUL = 3,
    /*
     * In place: y[T][heads][head_size], the first 2 * columns dimensions of each head; z: cosines
     * [T][columns], w: sines [T][columns]. Pairs are (i, i + columns); FLEX_NPU_NEIGHBOURS: (2i, 2i + 1).
     */
    FLEX_NPU_ROPE = 4,
    /* Puts x = keys [T][kv_heads][head_size] and z = values into the KV cache. w: cache, rows_of: below. Only
       the cache is written. */
    FLEX_NPU_KV_STORE = 5,
    /*
     * y[T][heads][head_size] = softmax(x . K * scalar) V, x: queries [T][heads][head_size], over positions
     * 0..position of each row. w: cache.
     */
    FLEX_NPU_ATTENTION = 6,
    /* In place: y[T][columns], each row. */
    FLEX_NPU_SOFTMAX = 7,
    /* y[T][columns] += x */
    FLEX_NPU_ADD = 8,
    /* y[T][columns] = silu(y) * x */
    FLEX_NPU_SILU_MULTIPLY = 9,
    /* Stores `scalar64` at y (8-byte aligned) when all commands before have written out. */
    FLEX_NPU_SIGNAL = 10,
    /* Goes on when the 64-bit word at x is >= scalar64; FLEX_NPU_TIMEOUT after `count` microseconds (<= 10
       s). */
    FLEX_NPU_WAIT = 11
};

enum flex_npu_flags { FLEX_NPU_ACCUMULATE = 1, FLEX_NPU_GATE = 2, FLEX_NPU_NEIGHBOURS = 4 };

/*
 * The KV cache (KV_STORE, ATTENTION): operand w names the region; block b of it begins at w.offset + b *
 * block_bytes and is laid out as framework/engine/kv_cache.h says, for kv_type (0 f32, 1 f16, 2 Q8_0),
 * `layers` layers and kv_heads of head_size; `layer` is the one meant. `rows_of` names flex_npu_row[T] and,
 * behind them without a gap, the block numbers they point to: u32[block_list].
 */
struct flex_npu_row {
    flex_u32 position; /* of the row's token in its sequence */
    flex_u32 blocks;   /* index in the list: block numbers of this sequence, position / 32 + 1 of them */
};
#define FLEX_NPU_KV_BLOCK_TOKENS 32u

struct flex_npu_command {
    flex_u32 op;
    flex_u32 flags;
    flex_u32 count;           /* T: 1..FLEX_NPU_COUNT_MAX */
    flex_u32 rows;            /* of the matrix: 1..FLEX_NPU_ROWS_MAX */
    flex_u32 columns;         /* 1..FLEX_NPU_COLUMNS_MAX */
    flex_u32 scalar;          /* bits of an f32: epsilon, or the factor of scores */
    flex_u16 heads, kv_heads; /* 1..1024; heads a multiple of kv_heads */
    flex_u16 head_size;       /* even, 2..512 */
    flex_u16 kv_type;
    flex_u32 layer, layers; /* layers 1..1024 */
    flex_u32 block_bytes;   /* multiple of 4 KiB, at least what the layout needs */
    flex_u32 block_list;    /* numbers in the list of blocks */
    struct flex_npu_operand x, y, z, w;
    union {
        struct flex_npu_operand rows_of;
        struct {
            flex_u64 scalar64;
            flex_u64 reserved;
        } fence;
    } u;
};
#define FLEX_NPU_COUNT_MAX 4096u
#define FLEX_NPU_ROWS_MAX (1u << 20)
#define FLEX_NPU_COLUMNS_MAX (1u << 15)
#define FLEX_NPU_BLOCK_LIST_MAX (1u << 20)
#define FLEX_NPU_CONTEXT_MAX (1u << 16) /* positions are below it */
#define FLEX_NPU_WAIT_US_MAX 10000000u

enum flex_npu_status {
    FLEX_NPU_OK = 0,
    FLEX_NPU_BAD_JOB = 1,     /* header, sizes, version */
    FLEX_NPU_BAD_COMMAND = 2, /* a field out of its range */
    FLEX_NPU_BAD_OPERAND = 3, /* outside its region, misaligned, a hole */
    FLEX_NPU_FAULT = 4,       /* the SMMU refused `address` */
    FLEX_NPU_TIMEOUT = 5,
    FLEX_NPU_ABORTED = 6, /* by reset; the queue is gone, too, so only a local driver may ever see it */
    FLEX_NPU_OFF = 7
};

struct flex_npu_result {
    flex_u32 status;  /* enum flex_npu_status */
    flex_u32 command; /* index of the one that failed; of the job when all went well: their number */
    flex_u64 cookie;
    flex_u64 address; /* FAULT: bus address that was refused */
    flex_u64 cycles;  /* busy, of the performance model (or, unlimited, measured) */
    flex_u64 macs;
    flex_u64 bytes; /* moved between memory and SRAM */
    flex_u64 reserved[2];
};

FLEX_STATIC_ASSERT(sizeof(struct flex_npu_region) == 16, "layout");
FLEX_STATIC_ASSERT(sizeof(struct flex_npu_job) == 32, "layout");
FLEX_STATIC_ASSERT(sizeof(struct flex_npu_operand) == 16, "layout");
FLEX_STATIC_ASSERT(sizeof(struct flex_npu_command) == 128, "layout");
FLEX_STATIC_ASSERT(sizeof(struct flex_npu_result) == 64, "layout");

/*
 * ---- Who has it ----
 * One page in Flex-Monitor's memory, directly behind the frame table (its frames rounded up to 4 KiB);
 * Flex-Monitor and the trusted OS both map it. `state` is changed by compare-and-swap only, and every
 * transition has one author:
 *
 *   state      normal world          secure world         stream   left by
 *   ABSENT     -                     -                    -        nobody
 *   NORMAL     registers, config,    none                 normal   monitor (GIVE) -> MOVING
 *              DMA
 *   MOVING     none                  none                 abort    monitor -> GIVEN, NORMAL; RETURNED when a
 *                                                                  TAKE finds that the reset does not end
 *   GIVEN      none                  may take hold        flex     trusted OS -> HELD; monitor (TAKE) -> MOVING
 *   HELD       none                  registers in S-EL0   flex     trusted OS -> RETURNED
 *   RETURNED   none                  none                 flex     monitor (TAKE) -> MOVING
 *                                                         (abort after a failed TAKE)
 *
 * The device is reset in MOVING, while its stream aborts: what either world left in it is gone before the
 * other can reach it.
 */
enum flex_npu_state {
    FLEX_NPU_ABSENT = 0,
    FLEX_NPU_NORMAL = 1,
    FLEX_NPU_MOVING = 2,
    FLEX_NPU_GIVEN = 3,
    FLEX_NPU_HELD = 4,
    FLEX_NPU_RETURNED = 5
};

struct flex_npu_control {
    flex_u32 state; /* enum flex_npu_state */
    flex_u32 reserved;
    flex_u64
        registers; /* physical address of the BAR that holds the virtio structures; valid in GIVEN and HELD */
    flex_u64 bytes; /* of it, a multiple of 4 KiB */
    /* offsets in it of the virtio structures (Virtio 1.2, 4.1.4), and notify_off_multiplier */
    flex_u32 common, notify, isr, device, notify_multiplier;
    flex_u32 reserved2;
};

#endif
