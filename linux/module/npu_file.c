// SPDX-License-Identifier: GPL-2.0
/* /dev/flexnpu (abi/npu_linux.h). */
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "abi/npu_linux.h"
#include "npu.h"

#define NPU_MAPPINGS_MAX 4096

struct npu_file {
	struct xarray mappings; /* by number */
};

static int npu_open(struct inode *inode, struct file *file)
{
	struct npu_file *own = kzalloc(sizeof(*own), GFP_KERNEL);

	if (!own)
		return -ENOMEM;
	xa_init_flags(&own->mappings, XA_FLAGS_ALLOC1);
	file->private_data = own;
	return nonseekable_open(inode, file);
}

/* No job of this file runs: each is waited for by a call on it. */
static int npu_release(struct inode *inode, struct file *file)
{
	struct npu_file *own = file->private_data;
	struct npu_mapping *mapping;
	unsigned long number;

	xa_for_each(&own->mappings, number, mapping)
		npu_mapping_put(mapping);
	xa_destroy(&own->mappings);
	kfree(own);
	return 0;
}

static long info(struct flexnpu_info __user *user)
{
	struct flexnpu_info info = {
		.version = npu.registers[FLEX_NPU_REG_VERSION],
		.state = npu_state(),
		.sram_bytes = npu.registers[FLEX_NPU_REG_SRAM_BYTES],
		.cores = npu.registers[FLEX_NPU_REG_CORES],
		.mac_per_us = npu.registers[FLEX_NPU_REG_MAC_PER_US],
		.bytes_per_us = npu.registers[FLEX_NPU_REG_BYTES_PER_US],
		.launch_ns = npu.registers[FLEX_NPU_REG_LAUNCH_NS],
	};

	return copy_to_user(user, &info, sizeof(info)) ? -EFAULT : 0;
}

static long map(struct npu_file *own, struct flexnpu_map __user *user)
{
	struct npu_mapping *mapping;
	struct flexnpu_map request;
	int ret;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	if (request.reserved)
		return -EINVAL;
	mapping = npu_mapping_create(request.address, request.bytes);
	if (IS_ERR(mapping))
		return PTR_ERR(mapping);
	ret = xa_alloc(&own->mappings, &request.mapping, mapping, XA_LIMIT(1, NPU_MAPPINGS_MAX), GFP_KERNEL);
	if (ret) {
		npu_mapping_put(mapping);
		return ret == -EBUSY ? -ENOSPC : ret;
	}
	if (!copy_to_user(user, &request, sizeof(request)))
		return 0;
	mapping = xa_erase(&own->mappings, request.mapping);
	if (mapping)
		npu_mapping_put(mapping);
	return -EFAULT;
}

static long unmap(struct npu_file *own, u32 __user *user)
{
	struct npu_mapping *mapping;
	u32 number;

	if (get_user(number, user))
		return -EFAULT;
	mapping = xa_erase(&own->mappings, number);
	if (!mapping)
		return -ENOENT;
	npu_mapping_put(mapping);
	return 0;
}

/* ---- SUBMIT ---- */

struct npu_uses {
	unsigned int count;
	struct npu_mapping *mappings[FLEX_NPU_REGIONS_MAX];
};

static void put_uses(struct npu_uses *uses)
{
	while (uses->count)
		npu_mapping_put(uses->mappings[--uses->count]);
}

static struct npu_mapping *find_mapping(struct npu_file *own, u64 number)
{
	struct npu_mapping *mapping = NULL;

	if (number > NPU_MAPPINGS_MAX)
		return NULL;
	xa_lock(&own->mappings);
	mapping = xa_load(&own->mappings, number);
	if (mapping)
		npu_mapping_get(mapping);
	xa_unlock(&own->mappings);
	return mapping;
}

static_assert(sizeof(struct flex_npu_job) + FLEX_NPU_REGIONS_MAX * sizeof(struct flex_npu_region) <= NPU_CHUNK_BYTES,
	      "header and regions lie in the first chunk");

static int check_header(const struct flex_npu_job *header, size_t bytes)
{
	if (header->magic != FLEX_NPU_JOB_MAGIC || header->version != FLEX_NPU_VERSION || header->reserved ||
	    !header->regions || header->regions > FLEX_NPU_REGIONS_MAX || !header->commands ||
	    header->commands > FLEX_NPU_COMMANDS_MAX)
		return -EINVAL;
	return bytes == sizeof(*header) + header->regions * sizeof(struct flex_npu_region) +
				header->commands * sizeof(struct flex_npu_command) ? 0 : -EINVAL;
}

/* Numbers of mappings become addresses of tables. What the commands say is checked by the device, against the regions. */
static int put_tables_in(struct npu_file *own, struct npu_job *job, struct npu_uses *uses)
{
	struct flex_npu_job *header = job->chunks[0];
	struct flex_npu_region *regions = (void *)(header + 1);
	int ret = check_header(header, job->bytes);
	unsigned int i;

	for (i = 0; !ret && i < header->regions; i++) {
		struct npu_mapping *mapping = find_mapping(own, regions[i].table);

		if (!mapping)
			return -ENOENT;
		uses->mappings[uses->count++] = mapping;
		if (!regions[i].bytes || regions[i].bytes > npu_mapping_bytes(mapping))
			return -EINVAL;
		regions[i].table = npu_mapping_table(mapping);
	}
	return ret;
}

static int copy_text(struct npu_job *job, u64 address)
{
	size_t at;

	for (at = 0; at < job->bytes; at += NPU_CHUNK_BYTES) {
		unsigned int i = at / NPU_CHUNK_BYTES;

		if (copy_from_user(job->chunks[i], u64_to_user_ptr(address + at), npu_job_chunk_bytes(job, i)))
			return -EFAULT;
	}
	return 0;
}

static int run(struct npu_job *job, struct npu_uses *uses, unsigned int timeout_ms)
{
	unsigned int i;
	int ret;

	for (i = 0; i < uses->count; i++)
		npu_mapping_to_device(uses->mappings[i]);
	ret = npu_job_run(job, timeout_ms);
	for (i = 0; i < uses->count; i++)
		npu_mapping_to_cpu(uses->mappings[i]);
	return ret;
}

static long submit(struct npu_file *own, struct flexnpu_submit __user *user)
{
	struct npu_uses uses = { .count = 0 };
	struct flexnpu_submit request;
	struct npu_job *job;
	int ret;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	if (request.job_bytes < sizeof(struct flex_npu_job) || request.job_bytes > FLEX_NPU_JOB_BYTES)
		return -EINVAL;
	job = npu_job_alloc(request.job_bytes);
	if (!job)
		return -ENOMEM;
	ret = copy_text(job, request.job);
	if (!ret)
		ret = put_tables_in(own, job, &uses);
	if (!ret)
		ret = run(job, &uses, request.timeout_ms);
	put_uses(&uses);
	if (!ret && copy_to_user(&user->result, job->result, sizeof(*job->result)))
		ret = -EFAULT;
	npu_job_free(job);
	return ret;
}

static long npu_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	void __user *user = (void __user *)argument;

	switch (command) {
	case FLEXNPU_IOC_INFO:
		return info(user);
	case FLEXNPU_IOC_MAP:
		return map(file->private_data, user);
	case FLEXNPU_IOC_UNMAP:
		return unmap(file->private_data, user);
	case FLEXNPU_IOC_SUBMIT:
		return submit(file->private_data, user);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations npu_fops = {
	.owner = THIS_MODULE,
	.open = npu_open,
	.release = npu_release,
	.unlocked_ioctl = npu_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

struct miscdevice npu_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "flexnpu",
	.fops = &npu_fops,
	.mode = 0600,
};
