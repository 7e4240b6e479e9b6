/* One operation of the bdev client: what Rust fills in, what the submit switch reads, and how it ended. */
#ifndef SPDKP_CLIENT_H
#define SPDKP_CLIENT_H

#include "spdk/bdev.h"
#include "spdk/bdev_module.h"

enum spdkp_op_kind {
	SPDKP_OP_READ,
	SPDKP_OP_WRITE,
	SPDKP_OP_COMPARE,
	SPDKP_OP_COMPARE_AND_WRITE,
	SPDKP_OP_FLUSH,
	SPDKP_OP_UNMAP,
	SPDKP_OP_WRITE_ZEROES,
	SPDKP_OP_COPY,
	SPDKP_OP_RESET,
	SPDKP_OP_ABORT,
	SPDKP_OP_SEEK_DATA,
	SPDKP_OP_SEEK_HOLE,
	SPDKP_OP_ZCOPY_START,
	SPDKP_OP_NVME_ADMIN,
	SPDKP_OP_NVME_IO,
	SPDKP_OP_ZONE_INFO,
	SPDKP_OP_ZONE_MANAGEMENT,
	SPDKP_OP_ZONE_APPEND,
	/* A request of a bdev of ours, which is in `buf`. */
	SPDKP_OP_FORWARD,
};

enum spdkp_op_status {
	SPDKP_OP_OK,
	SPDKP_OP_FAILED,
	SPDKP_OP_NOMEM,
	SPDKP_OP_ABORTED,
	SPDKP_OP_MISCOMPARE,
	SPDKP_OP_NVME_ERROR,
	SPDKP_OP_SCSI_ERROR,
	SPDKP_OP_ERRNO,
	/* The bdev layer did not take it. For Rust's use. */
	SPDKP_OP_REFUSED,
};

enum spdkp_op_flags {
	/* Any of dif_exclude, cdw12 and cdw13 is set. */
	SPDKP_OP_EXT = 1,
	/* A zcopy reads the range first. */
	SPDKP_OP_POPULATE = 2,
	/* More than the status is read at the end. */
	SPDKP_OP_ANSWERS = 4,
};

struct spdkp_op {
	/* The data, or with iovcnt its `struct iovec`s. */
	void *buf;
	/* In blocks. The first one's number, for a zone operation that of the zone's. */
	uint64_t offset;
	uint64_t num;
	/* Metadata, or NULL. */
	void *md;
	uint32_t iovcnt;
	uint8_t kind;
	uint8_t flags;
	/* At the end: an spdkp_op_status, and what goes with it. */
	uint8_t status;
	uint8_t codes[4];

	/* From here on only what the kind needs is set. */
	uint32_t cdw0;
	int32_t err;
	/* COMPARE_AND_WRITE: what to write, one buffer or iovecs. ABORT: the target's callback argument.
	 * ZONE_INFO: room for `num` zones. ZCOPY_START at its end: the request. */
	void *aux;
	/* COMPARE_AND_WRITE: iovecs in aux. ZONE_MANAGEMENT: the action. */
	uint32_t aux_num;
	uint32_t dif_exclude;
	uint32_t cdw12;
	uint32_t cdw13;
	/* COPY: the source, in blocks. NVME_*: bytes of data. SEEK_*, ZONE_APPEND at their end: the block. */
	uint64_t value;
	/* NVME_IO: bytes of metadata. */
	uint64_t md_len;
	/* What the release lacks, when the submission says -ENOSYS: the first one that has it. */
	const char *needs;
	/* Made of one buffer where only a vectored call will do. */
	struct iovec iov[2];
	uint64_t cmd[8];
	/* A `struct spdk_bdev_ext_io_opts`, which the bdev layer of some releases goes on to look at. */
	uint64_t opts[8];
};

/* 0, or a negative errno and then there will be no callback: -ENOSYS when the release lacks it. */
int spdkp_op_submit(struct spdkp_op *op, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
		    spdk_bdev_io_completion_cb cb, void *ctx);
/* Reads how it ended. The request is freed, unless it is a zcopy that has begun. */
void spdkp_op_end(struct spdkp_op *op, struct spdk_bdev_io *io, bool success);

/* forward.c: submits `io`, a request of a bdev of ours that is not an abort, to the bdev below with its range moved to
 * begin at `offset`. For the end of a zcopy `lent` is the request that began it there. */
int spdkp_forward(struct spdk_bdev_io *io, struct spdk_bdev_io *lent, struct spdk_bdev_desc *desc,
		  struct spdk_io_channel *ch, uint64_t offset, spdk_bdev_io_completion_cb cb, void *ctx);
/* The same for reads and for writes. */
int spdkp_forward_read(struct spdk_bdev_io *io, struct spdk_bdev_desc *desc,
		       struct spdk_io_channel *ch, uint64_t offset, spdk_bdev_io_completion_cb cb,
		       void *ctx);
int spdkp_forward_write(struct spdk_bdev_io *io, struct spdk_bdev_desc *desc,
			struct spdk_io_channel *ch, uint64_t offset, spdk_bdev_io_completion_cb cb,
			void *ctx);
/* Takes over what a child that ended well answers. True: the child is what a zcopy's end will name, and is not to be
 * freed before. */
bool spdkp_forward_end(struct spdk_bdev_io *io, struct spdk_bdev_io *child, uint64_t offset,
		       uint32_t *cdw0);

/* A wait for a spdk_bdev_io; `entry` is as large and as aligned as the functions below tell. */
size_t spdkp_wait_size(void);
/* ahead: other requests cannot end before this one has been served. */
int spdkp_wait(void *entry, struct spdk_bdev *bdev, struct spdk_io_channel *ch, bool ahead,
	       spdk_bdev_io_wait_cb cb, void *ctx);

struct spdkp_zone {
	uint64_t id;
	uint64_t write_pointer;
	uint64_t capacity;
	uint32_t state;
	uint32_t type;
};
size_t spdkp_zone_info_size(void);
void spdkp_zone_info_get(const void *infos, size_t index, struct spdkp_zone *out);

#endif
