#include "spdkp.h"
#include "spdk/likely.h"
#include "spdk/bdev_zone.h"
#include "spdk/nvme_spec.h"

#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 10, 0)
#pragma weak spdk_bdev_readv_blocks_ext
#pragma weak spdk_bdev_writev_blocks_ext
SPDK_STATIC_ASSERT(sizeof(struct spdk_bdev_ext_io_opts) <= sizeof(((struct spdkp_op *)0)->opts),
		   "room for the options");
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 9, 0)
#pragma weak spdk_bdev_seek_data
#pragma weak spdk_bdev_seek_hole
#pragma weak spdk_bdev_io_get_seek_offset
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
#pragma weak spdk_bdev_copy_blocks
#endif
SPDK_STATIC_ASSERT(sizeof(struct spdk_nvme_cmd) == sizeof(((struct spdkp_op *)0)->cmd),
		   "room for the command");

__attribute__((unused)) static int
lacks(struct spdkp_op *op, const char *needs)
{
	op->needs = needs;
	return -ENOSYS;
}

/* One buffer as a list of one. `num` blocks of it are used. */
static struct iovec *
as_list(struct iovec *iov, void *buf, uint64_t bytes)
{
	iov->iov_base = buf;
	iov->iov_len = bytes;
	return iov;
}

static int
submit_ext(struct spdkp_op *op, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
	   spdk_bdev_io_completion_cb cb, void *ctx)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0)
	struct spdk_bdev_ext_io_opts *opts = (void *)op->opts;
	struct iovec *iovs = op->buf;
	int iovcnt = op->iovcnt;

	memset(op->opts, 0, sizeof(op->opts));
	opts->size = sizeof(*opts);
	opts->metadata = op->md;
	opts->dif_check_flags_exclude_mask = op->dif_exclude;
	opts->nvme_cdw12.raw = op->cdw12;
	opts->nvme_cdw13.raw = op->cdw13;
	if (iovcnt == 0) {
		iovs = as_list(op->iov, op->buf, op->num * spdkp_desc_block_size(desc));
		iovcnt = 1;
	}
	return op->kind == SPDKP_OP_READ ?
	       spdk_bdev_readv_blocks_ext(desc, ch, iovs, iovcnt, op->offset, op->num, cb, ctx, opts) :
	       spdk_bdev_writev_blocks_ext(desc, ch, iovs, iovcnt, op->offset, op->num, cb, ctx, opts);
#else
	return lacks(op, "24.05");
#endif
}

static int
submit_read(struct spdkp_op *op, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
	    spdk_bdev_io_completion_cb cb, void *ctx)
{
	if (op->flags & SPDKP_OP_EXT) {
		return submit_ext(op, desc, ch, cb, ctx);
	} else if (op->iovcnt == 0) {
		return spdk_bdev_read_blocks_with_md(desc, ch, op->buf, op->md, op->offset, op->num, cb,
						     ctx);
	} else if (op->md == NULL) {
		return spdk_bdev_readv_blocks(desc, ch, op->buf, op->iovcnt, op->offset, op->num, cb, ctx);
	}
	return spdk_bdev_readv_blocks_with_md(desc, ch, op->buf, op->iovcnt, op->md, op->offset,
					      op->num, cb, ctx);
}

static int
submit_write(struct spdkp_op *op, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
	     spdk_bdev_io_completion_cb cb, void *ctx)
{
	if (op->flags & SPDKP_OP_EXT) {
		return submit_ext(op, desc, ch, cb, ctx);
	} else if (op->iovcnt == 0) {
		return spdk_bdev_write_blocks_with_md(desc, ch, op->buf, op->md, op->offset, op->num, cb,
						      ctx);
	} else if (op->md == NULL) {
		return spdk_bdev_writev_blocks(desc, ch, op->buf, op->iovcnt, op->offset, op->num, cb,
					       ctx);
	}
	return spdk_bdev_writev_blocks_with_md(desc, ch, op->buf, op->iovcnt, op->md, op->offset,
					       op->num, cb, ctx);
}

static int
submit_compare(struct spdkp_op *op, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
	       spdk_bdev_io_completion_cb cb, void *ctx)
{
	if (op->iovcnt == 0 && op->md == NULL) {
		return spdk_bdev_compare_blocks(desc, ch, op->buf, op->offset, op->num, cb, ctx);
	} else if (op->iovcnt == 0) {
		return spdk_bdev_compare_blocks_with_md(desc, ch, op->buf, op->md, op->offset, op->num, cb,
							ctx);
	} else if (op->md == NULL) {
		return spdk_bdev_comparev_blocks(desc, ch, op->buf, op->iovcnt, op->offset, op->num, cb,
						 ctx);
	}
	return spdk_bdev_comparev_blocks_with_md(desc, ch, op->buf, op->iovcnt, op->md, op->offset,
						 op->num, cb, ctx);
}

static int
submit_compare_and_write(struct spdkp_op *op, struct spdk_bdev_desc *desc,
			 struct spdk_io_channel *ch, spdk_bdev_io_completion_cb cb, void *ctx)
{
	uint64_t bytes = op->num * spdkp_desc_block_size(desc);
	struct iovec *compare = op->buf, *write = op->aux;

	if (op->iovcnt == 0) {
		compare = as_list(&op->iov[0], op->buf, bytes);
		write = as_list(&op->iov[1], op->aux, bytes);
	}
	return spdk_bdev_comparev_and_writev_blocks(desc, ch, compare, spdk_max(op->iovcnt, 1), write,
			spdk_max(op->aux_num, 1), op->offset, op->num, cb, ctx);
}

static int
submit_copy(struct spdkp_op *op, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
	    spdk_bdev_io_completion_cb cb, void *ctx)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
	return spdk_bdev_copy_blocks(desc, ch, op->offset, op->value, op->num, cb, ctx);
#else
	return lacks(op, "23.01");
#endif
}

static int
submit_seek(struct spdkp_op *op, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
	    spdk_bdev_io_completion_cb cb, void *ctx)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 9, 0)
	return op->kind == SPDKP_OP_SEEK_DATA ?
	       spdk_bdev_seek_data(desc, ch, op->offset, cb, ctx) :
	       spdk_bdev_seek_hole(desc, ch, op->offset, cb, ctx);
#else
	return lacks(op, "22.09");
#endif
}

static int
submit_nvme(struct spdkp_op *op, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
	    spdk_bdev_io_completion_cb cb, void *ctx)
{
	const struct spdk_nvme_cmd *cmd = (const void *)op->cmd;

	if (op->kind == SPDKP_OP_NVME_ADMIN) {
		return spdk_bdev_nvme_admin_passthru(desc, ch, cmd, op->buf, op->value, cb, ctx);
	} else if (op->md == NULL) {
		return spdk_bdev_nvme_io_passthru(desc, ch, cmd, op->buf, op->value, cb, ctx);
	}
	return spdk_bdev_nvme_io_passthru_md(desc, ch, cmd, op->buf, op->value, op->md, op->md_len, cb,
					     ctx);
}

/* The bdev layer looks neither at the kind of device nor at the range. */
static int
submit_zone(struct spdkp_op *op, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
	    spdk_bdev_io_completion_cb cb, void *ctx)
{
	struct spdk_bdev *bdev = spdk_bdev_desc_get_bdev(desc);
	enum spdk_bdev_zone_action action;

	if (!spdk_bdev_is_zoned(bdev)) {
		return -ENOTSUP;
	}
	switch (op->kind) {
	case SPDKP_OP_ZONE_INFO:
		return spdk_bdev_get_zone_info(desc, ch, op->offset, op->num, op->aux, cb, ctx);
	case SPDKP_OP_ZONE_MANAGEMENT:
		action = op->aux_num;
#if SPDK_VERSION < SPDK_VERSION_NUM(21, 4, 0)
		if (action > SPDK_BDEV_ZONE_RESET) {
			return lacks(op, "21.04");
		}
#endif
		return spdk_bdev_zone_management(desc, ch, op->offset, action, cb, ctx);
	}
	if (!spdk_bdev_io_type_supported(bdev, SPDK_BDEV_IO_TYPE_ZONE_APPEND)) {
		return -ENOTSUP;
	}
	if (op->iovcnt != 0) {
		return spdk_bdev_zone_appendv_with_md(desc, ch, op->buf, op->iovcnt, op->md, op->offset,
						      op->num, cb, ctx);
	}
	return spdk_bdev_zone_append_with_md(desc, ch, op->buf, op->md, op->offset, op->num, cb, ctx);
}

int
spdkp_op_submit(struct spdkp_op *op, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
		spdk_bdev_io_completion_cb cb, void *ctx)
{
	switch (op->kind) {
	case SPDKP_OP_READ:
		if (spdk_likely((op->flags & SPDKP_OP_EXT) == 0 && op->iovcnt == 0 && op->md == NULL)) {
			return spdk_bdev_read_blocks(desc, ch, op->buf, op->offset, op->num, cb, ctx);
		}
		return submit_read(op, desc, ch, cb, ctx);
	case SPDKP_OP_WRITE:
		if (spdk_likely((op->flags & SPDKP_OP_EXT) == 0 && op->iovcnt == 0 && op->md == NULL)) {
			return spdk_bdev_write_blocks(desc, ch, op->buf, op->offset, op->num, cb, ctx);
		}
		return submit_write(op, desc, ch, cb, ctx);
	case SPDKP_OP_COMPARE:
		return submit_compare(op, desc, ch, cb, ctx);
	case SPDKP_OP_COMPARE_AND_WRITE:
		return submit_compare_and_write(op, desc, ch, cb, ctx);
	case SPDKP_OP_FLUSH:
		return spdk_bdev_flush_blocks(desc, ch, op->offset, op->num, cb, ctx);
	case SPDKP_OP_UNMAP:
		return spdk_bdev_unmap_blocks(desc, ch, op->offset, op->num, cb, ctx);
	case SPDKP_OP_WRITE_ZEROES:
		return spdk_bdev_write_zeroes_blocks(desc, ch, op->offset, op->num, cb, ctx);
	case SPDKP_OP_COPY:
		return submit_copy(op, desc, ch, cb, ctx);
	case SPDKP_OP_RESET:
		return spdk_bdev_reset(desc, ch, cb, ctx);
	case SPDKP_OP_ABORT:
		return spdk_bdev_abort(desc, ch, op->aux, cb, ctx);
	case SPDKP_OP_SEEK_DATA:
	case SPDKP_OP_SEEK_HOLE:
		return submit_seek(op, desc, ch, cb, ctx);
	case SPDKP_OP_ZCOPY_START:
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 7, 0)
		return spdk_bdev_zcopy_start(desc, ch, NULL, 0, op->offset, op->num,
					     op->flags & SPDKP_OP_POPULATE, cb, ctx);
#else
		return spdk_bdev_zcopy_start(desc, ch, op->offset, op->num,
					     op->flags & SPDKP_OP_POPULATE, cb, ctx);
#endif
	case SPDKP_OP_NVME_ADMIN:
	case SPDKP_OP_NVME_IO:
		return submit_nvme(op, desc, ch, cb, ctx);
	case SPDKP_OP_ZONE_INFO:
	case SPDKP_OP_ZONE_MANAGEMENT:
	case SPDKP_OP_ZONE_APPEND:
		return submit_zone(op, desc, ch, cb, ctx);
	default:
		return -EINVAL;
	}
}

static void
read_answer(struct spdkp_op *op, struct spdk_bdev_io *io)
{
	int sct, sc;

	switch (op->kind) {
	case SPDKP_OP_NVME_ADMIN:
	case SPDKP_OP_NVME_IO:
		spdk_bdev_io_get_nvme_status(io, &op->cdw0, &sct, &sc);
		break;
	case SPDKP_OP_ZONE_APPEND:
		op->value = spdk_bdev_io_get_append_location(io);
		break;
#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 9, 0)
	case SPDKP_OP_SEEK_DATA:
	case SPDKP_OP_SEEK_HOLE:
		op->value = spdk_bdev_io_get_seek_offset(io);
		break;
#endif
	default:
		break;
	}
}

static void
read_error(struct spdkp_op *op, struct spdk_bdev_io *io)
{
	int sct = 0, sc = 0, sk = 0, asc = 0, ascq = 0;

	switch ((enum spdk_bdev_io_status)io->internal.status) {
	case SPDK_BDEV_IO_STATUS_NVME_ERROR:
		op->status = SPDKP_OP_NVME_ERROR;
		spdk_bdev_io_get_nvme_status(io, &op->cdw0, &sct, &sc);
		op->codes[0] = sct;
		op->codes[1] = sc;
		break;
	case SPDK_BDEV_IO_STATUS_SCSI_ERROR:
		op->status = SPDKP_OP_SCSI_ERROR;
		spdk_bdev_io_get_scsi_status(io, &sc, &sk, &asc, &ascq);
		op->codes[0] = sc;
		op->codes[1] = sk;
		op->codes[2] = asc;
		op->codes[3] = ascq;
		break;
	case SPDK_BDEV_IO_STATUS_NOMEM:
		op->status = SPDKP_OP_NOMEM;
		break;
	case SPDK_BDEV_IO_STATUS_MISCOMPARE:
		op->status = SPDKP_OP_MISCOMPARE;
		break;
	case SPDK_BDEV_IO_STATUS_ABORTED:
		op->status = SPDKP_OP_ABORTED;
		break;
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 1, 0)
	case SPDK_BDEV_IO_STATUS_AIO_ERROR:
		op->status = SPDKP_OP_ERRNO;
		op->err = -io->internal.error.aio_result;
		break;
#endif
	default:
		op->status = SPDKP_OP_FAILED;
		break;
	}
}

void
spdkp_op_end(struct spdkp_op *op, struct spdk_bdev_io *io, bool success)
{
	if (!success) {
		read_error(op, io);
	} else if (op->kind == SPDKP_OP_ZCOPY_START) {
		op->aux = io;
		return;
	} else {
		read_answer(op, io);
	}
	spdk_bdev_free_io(io);
}

size_t
spdkp_wait_size(void)
{
	return sizeof(struct spdk_bdev_io_wait_entry);
}

int
spdkp_wait(void *entry, struct spdk_bdev *bdev, struct spdk_io_channel *ch, bool ahead,
	   spdk_bdev_io_wait_cb cb, void *ctx)
{
	struct spdk_bdev_io_wait_entry *wait = entry;

	memset(wait, 0, sizeof(*wait));
	wait->bdev = bdev;
	wait->cb_fn = cb;
	wait->cb_arg = ctx;
#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 9, 0)
	wait->dep_unblock = ahead;
#endif
	return spdk_bdev_queue_io_wait(bdev, ch, wait);
}

size_t
spdkp_zone_info_size(void)
{
	return sizeof(struct spdk_bdev_zone_info);
}

void
spdkp_zone_info_get(const void *infos, size_t index, struct spdkp_zone *out)
{
	const struct spdk_bdev_zone_info *info = (const struct spdk_bdev_zone_info *)infos + index;

	out->id = info->zone_id;
	out->write_pointer = info->write_pointer;
	out->capacity = info->capacity;
	out->state = info->state;
#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 9, 0)
	out->type = info->type;
#else
	/* There was no other. */
	out->type = 2;
#endif
}
