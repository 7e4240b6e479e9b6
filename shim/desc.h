/* Descriptors: opening, closing and claiming a bdev. */
#ifndef SPDKP_DESC_H
#define SPDKP_DESC_H

#include "spdk/bdev.h"

/* -ENODEV when there is no such bdev, on every release. */
int spdkp_desc_open(const char *name, bool write, bool hide_metadata, spdk_bdev_event_cb_t event_cb,
		    void *ctx, struct spdk_bdev_desc **desc, const char **needs);

/* What I/O through the descriptor is counted in; hidden metadata is left out. */
uint32_t spdkp_desc_block_size(struct spdk_bdev_desc *desc);
uint32_t spdkp_desc_md_size(struct spdk_bdev_desc *desc);
bool spdkp_desc_md_interleaved(struct spdk_bdev_desc *desc);

/* Before 22.09 a close stops the sampling of the queue depth, and must then run where the sampling was
 * started: on the app thread. True: it would run elsewhere, so it has to be stopped there first. */
bool spdkp_desc_close_is_misplaced(struct spdk_bdev_desc *desc);
void spdkp_desc_stop_sampling(struct spdk_bdev_desc *desc);

#endif
