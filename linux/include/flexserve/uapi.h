/*
 * Between flexserve.ko and flex-agentd: ioctls of /dev/flexserve.
 *
 * One agent at a time may hold the device open. Its threads call NEXT, serve the slot in the mapped shared area (mmap offset 0,
 * FLEX_RPC_AREA_BYTES) and call DONE. Both sides belong to the untrusted normal world.
 */
#ifndef FLEXSERVE_UAPI_H
#define FLEXSERVE_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define FLEXSERVE_DEVICE "/dev/flexserve"

enum flexserve_event_type {
	FLEXSERVE_EVENT_RPC = 1,	/* slot: an RPC to serve and to finish by DONE or LOAD */
	FLEXSERVE_EVENT_EXITED = 2,	/* slot: the program's number; value: its exit code, or 256 + signal */
};

struct flexserve_event {
	__u32 type;	/* enum flexserve_event_type */
	__u32 slot;	/* 0 .. FLEX_RPC_SLOTS - 1 */
	__s64 value;
};

struct flexserve_load {
	__u32 slot;	/* an FLEX_RPC_LOAD that NEXT has given out */
	__s32 fd;	/* the file its handle stands for */
};

#define FLEXSERVE_IOC_MAGIC 0xF5
/* Waits for an event. Any number of threads; each event goes to one of them. EINTR on a signal. */
#define FLEXSERVE_IOC_NEXT _IOR(FLEXSERVE_IOC_MAGIC, 1, struct flexserve_event)
/* Completes a slot given out by NEXT (argument: the slot). ESTALE when it is not the agent's any more. */
#define FLEXSERVE_IOC_DONE _IO(FLEXSERVE_IOC_MAGIC, 2)
/* Serves an FLEX_RPC_LOAD from a file and completes the slot, with an error in it when it fails. */
#define FLEXSERVE_IOC_LOAD _IOW(FLEXSERVE_IOC_MAGIC, 3, struct flexserve_load)
/* Starts the secure program; returns its number: 1, 2, ... since the driver was loaded. EBUSY while one runs or slots of the last one are still with the agent. */
#define FLEXSERVE_IOC_START _IO(FLEXSERVE_IOC_MAGIC, 4)
/* Asks for its end; FLEXSERVE_EVENT_EXITED follows. */
#define FLEXSERVE_IOC_STOP _IO(FLEXSERVE_IOC_MAGIC, 5)

#endif
