#ifndef SPDKP_MODULE_H
#define SPDKP_MODULE_H

#include "spdkp.h"

/* One block holds what SPDK keeps pointers to for as long as the process lives. */
struct spdkp_module {
	struct spdk_bdev_module module;
	struct spdk_bdev_fn_table table;
	struct spdkp_module_ops ops;
};

#endif
