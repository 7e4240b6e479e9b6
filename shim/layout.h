/* Where the fields lie that are read on every I/O. bindgen evaluates these against the headers in use,
 * so that Rust reads them without a call into C. */
#ifndef SPDKP_LAYOUT_H
#define SPDKP_LAYOUT_H

#include "spdk/bdev_module.h"
#include "spdk/thread.h"

#ifdef SPDK_IO_CHANNEL_STRUCT_SIZE
#define SPDKP_CHANNEL_HEADER SPDK_IO_CHANNEL_STRUCT_SIZE
#else
#define SPDKP_CHANNEL_HEADER sizeof(struct spdk_io_channel)
#endif

enum spdkp_layout {
	SPDKP_CHANNEL_CTX = SPDKP_CHANNEL_HEADER,
	SPDKP_BDEV_CTXT = offsetof(struct spdk_bdev, ctxt),
	SPDKP_BDEV_BLOCKLEN = offsetof(struct spdk_bdev, blocklen),
	SPDKP_BDEV_MD_LEN = offsetof(struct spdk_bdev, md_len),
	SPDKP_IO_BDEV = offsetof(struct spdk_bdev_io, bdev),
	SPDKP_IO_TYPE = offsetof(struct spdk_bdev_io, type),
	SPDKP_IO_IOVS = offsetof(struct spdk_bdev_io, u.bdev.iovs),
	SPDKP_IO_IOVCNT = offsetof(struct spdk_bdev_io, u.bdev.iovcnt),
	SPDKP_IO_OFFSET_BLOCKS = offsetof(struct spdk_bdev_io, u.bdev.offset_blocks),
	SPDKP_IO_NUM_BLOCKS = offsetof(struct spdk_bdev_io, u.bdev.num_blocks),
	SPDKP_IO_MD_BUF = offsetof(struct spdk_bdev_io, u.bdev.md_buf),
	SPDKP_IO_ABORT_TARGET = offsetof(struct spdk_bdev_io, u.abort.bio_to_abort),
	SPDKP_IO_INTERNAL = offsetof(struct spdk_bdev_io, internal),
	SPDKP_IO_DRIVER_CTX = offsetof(struct spdk_bdev_io, driver_ctx),
};

#endif
