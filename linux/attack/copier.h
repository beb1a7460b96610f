/* SPDX-License-Identifier: GPL-2.0 */
/* A PCI device that copies memory for us, from any address to any address. All return 0 or -errno. */
#ifndef FLEXATTACK_COPIER_H
#define FLEXATTACK_COPIER_H

#include <linux/types.h>

#define COPIER_BYTES_MAX 1024

int copier_open(void);
/* Success means that the device has gone through its queue, not that its accesses were allowed. */
int copier_copy(u64 from, u64 to, unsigned int bytes);

#endif
