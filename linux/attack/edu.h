/* SPDX-License-Identifier: GPL-2.0 */
/* The edu device as a tool: its buffer holds what DMA brought there last. All return 0 or -errno. */
#ifndef FLEXATTACK_EDU_H
#define FLEXATTACK_EDU_H

#include <linux/types.h>

int edu_open(void);
/* Between the device's buffer and memory at @address, 4 KiB. A refused access leaves the destination as it was. */
int edu_read(u64 address);
int edu_write(u64 address);
/* Fills the buffer with a word, through a page of ours. */
int edu_load(u64 word);
/* The buffer's content, valid until the next call; NULL on failure. */
const u64 *edu_fetch(void);

#endif
