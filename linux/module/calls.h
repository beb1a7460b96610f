/* SPDX-License-Identifier: GPL-2.0 */
/* The calls of abi/calls.h as the driver makes them (SMCCC, DEN0028). */
#ifndef FLEXSERVE_CALLS_H
#define FLEXSERVE_CALLS_H

#include <linux/arm-smccc.h>

#include "abi/calls.h"
#include "abi/frame.h"
#include "abi/rpc.h"

static inline struct arm_smccc_res flex_hvc(u64 call, u64 a, u64 b)
{
	struct arm_smccc_res res;

	arm_smccc_hvc(call, a, b, 0, 0, 0, 0, 0, &res);
	return res;
}

static inline struct arm_smccc_res flex_smc(u64 call, u64 a, u64 b, u64 c)
{
	struct arm_smccc_res res;

	arm_smccc_smc(call, a, b, c, 0, 0, 0, 0, &res);
	return res;
}

/* A status of the monitor or the trusted OS as an errno. */
static inline int flex_errno(u64 status)
{
	switch ((s64)status) {
	case FLEX_ERR_ARGUMENT:
		return -EINVAL;
	case FLEX_ERR_STATE:
		return -EPROTO;
	case FLEX_ERR_BUSY:
		return -EBUSY;
	case FLEX_ERR_NO_MEMORY:
		return -ENOMEM;
	case FLEX_ERR_DENIED:
		return -EPERM;
	case FLEX_ERR_UNKNOWN:
		return -EOPNOTSUPP;
	default:
		return (s64)status < 0 ? -EIO : 0;
	}
}

#endif
