/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What flexserve.ko exports of its NPU driver, for flexattack.ko, which takes it by symbol_get() so that neither needs the other to
 * load. All may sleep. -ENODEV: there is no NPU; -EBUSY: the secure world has it.
 */
#ifndef FLEXNPU_H
#define FLEXNPU_H

#include <linux/pci.h>
#include <linux/types.h>

#include "abi/npu.h"

/*
 * Runs a job as it is, whatever it says: tables are bus addresses. Waits for its turn as all jobs do, then for its end.
 * 0 when there is a result, which may tell of an error; -ETIMEDOUT: not begun within @timeout_ms; -EIO: reset under way.
 */
int flexnpu_run_raw(const void *job, size_t bytes, unsigned int timeout_ms, struct flex_npu_result *result);
int flexnpu_read_register(enum flex_npu_register number, u32 *value);
int flexnpu_write_register(enum flex_npu_register number, u32 value);
/* The function, with a reference for pci_dev_put(); NULL when there is none. */
struct pci_dev *flexnpu_pci_device(void);
/* The BAR that holds the virtio structures, also while the secure world has it. */
int flexnpu_window(phys_addr_t *base, resource_size_t *bytes);

#endif
