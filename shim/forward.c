/* A request of a bdev of ours, submitted again to the bdev below it. */
#include "spdkp.h"
#include "spdk/bdev_zone.h"
#include "spdk/likely.h"

#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 9, 0)
#pragma weak spdk_bdev_seek_data
#pragma weak spdk_bdev_seek_hole
#pragma weak spdk_bdev_io_get_seek_offset
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
#pragma weak spdk_bdev_copy_blocks
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 5, 0)
#pragma weak spdk_bdev_readv_blocks_ext
#pragma weak spdk_bdev_writev_blocks_ext
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 1, 0)
#pragma weak spdk_bdev_nvme_iov_passthru_md
#endif

/* Whether more goes with a read or a write than data and metadata. */
static bool
is_ext(const struct spdk_bdev_io *io)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0)
	if (spdk_unlikely(io->u.bdev.dif_check_flags != io->bdev->dif_check_flags)) {
		return true;
	}
#endif
	return io->u.bdev.memory_domain != NULL;
}

static void
fill_ext(const struct spdk_bdev_io *io, struct spdk_bdev_ext_io_opts *opts)
{
	memset(opts, 0, sizeof(*opts));
	opts->size = sizeof(*opts);
	opts->memory_domain = io->u.bdev.memory_domain;
	opts->memory_domain_ctx = io->u.bdev.memory_domain_ctx;
	opts->metadata = io->u.bdev.md_buf;
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0)
	opts->dif_check_flags_exclude_mask = ~io->u.bdev.dif_check_flags;
#endif
}
#endif

int
spdkp_forward_read(struct spdk_bdev_io *io, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
		   uint64_t offset, spdk_bdev_io_completion_cb cb, void *ctx)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 5, 0)
	if (spdk_unlikely(is_ext(io))) {
		struct spdk_bdev_ext_io_opts opts;

		fill_ext(io, &opts);
		return spdk_bdev_readv_blocks_ext(desc, ch, io->u.bdev.iovs, io->u.bdev.iovcnt, offset,
						  io->u.bdev.num_blocks, cb, ctx, &opts);
	}
#endif
	if (spdk_likely(io->u.bdev.md_buf == NULL)) {
		return spdk_bdev_readv_blocks(desc, ch, io->u.bdev.iovs, io->u.bdev.iovcnt, offset,
					      io->u.bdev.num_blocks, cb, ctx);
	}
	return spdk_bdev_readv_blocks_with_md(desc, ch, io->u.bdev.iovs, io->u.bdev.iovcnt,
					      io->u.bdev.md_buf, offset, io->u.bdev.num_blocks, cb, ctx);
}

int
spdkp_forward_write(struct spdk_bdev_io *io, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
		    uint64_t offset, spdk_bdev_io_completion_cb cb, void *ctx)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 5, 0)
	if (spdk_unlikely(is_ext(io))) {
		struct spdk_bdev_ext_io_opts opts;

		fill_ext(io, &opts);
		return spdk_bdev_writev_blocks_ext(desc, ch, io->u.bdev.iovs, io->u.bdev.iovcnt, offset,
						   io->u.bdev.num_blocks, cb, ctx, &opts);
	}
#endif
	if (spdk_likely(io->u.bdev.md_buf == NULL)) {
		return spdk_bdev_writev_blocks(desc, ch, io->u.bdev.iovs, io->u.bdev.iovcnt, offset,
					       io->u.bdev.num_blocks, cb, ctx);
	}
	return spdk_bdev_writev_blocks_with_md(desc, ch, io->u.bdev.iovs, io->u.bdev.iovcnt,
					       io->u.bdev.md_buf, offset, io->u.bdev.num_blocks, cb, ctx);
}

static int
forward_compare(struct spdk_bdev_io *io, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
		uint64_t offset, spdk_bdev_io_completion_cb cb, void *ctx)
{
	if (io->u.bdev.md_buf == NULL) {
		return spdk_bdev_comparev_blocks(desc, ch, io->u.bdev.iovs, io->u.bdev.iovcnt, offset,
						 io->u.bdev.num_blocks, cb, ctx);
	}
	return spdk_bdev_comparev_blocks_with_md(desc, ch, io->u.bdev.iovs, io->u.bdev.iovcnt,
			io->u.bdev.md_buf, offset, io->u.bdev.num_blocks, cb, ctx);
}

static int
forward_zone(struct spdk_bdev_io *io, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
	     uint64_t offset, spdk_bdev_io_completion_cb cb, void *ctx)
{
	switch (io->type) {
	case SPDK_BDEV_IO_TYPE_GET_ZONE_INFO:
		return spdk_bdev_get_zone_info(desc, ch, io->u.zone_mgmt.zone_id,
					       io->u.zone_mgmt.num_zones, io->u.zone_mgmt.buf, cb, ctx);
	case SPDK_BDEV_IO_TYPE_ZONE_MANAGEMENT:
		return spdk_bdev_zone_management(desc, ch, io->u.zone_mgmt.zone_id,
						 io->u.zone_mgmt.zone_action, cb, ctx);
	default:
		return spdk_bdev_zone_appendv_with_md(desc, ch, io->u.bdev.iovs, io->u.bdev.iovcnt,
						      io->u.bdev.md_buf, offset, io->u.bdev.num_blocks,
						      cb, ctx);
	}
}

static int
forward_nvme(struct spdk_bdev_io *io, struct spdk_bdev_desc *desc, struct spdk_io_channel *ch,
	     spdk_bdev_io_completion_cb cb, void *ctx)
{
	switch (io->type) {
	case SPDK_BDEV_IO_TYPE_NVME_ADMIN:
		return spdk_bdev_nvme_admin_passthru(desc, ch, &io->u.nvme_passthru.cmd,
						     io->u.nvme_passthru.buf,
						     io->u.nvme_passthru.nbytes, cb, ctx);
	case SPDK_BDEV_IO_TYPE_NVME_IO:
		return spdk_bdev_nvme_io_passthru(desc, ch, &io->u.nvme_passthru.cmd,
						  io->u.nvme_passthru.buf, io->u.nvme_passthru.nbytes,
						  cb, ctx);
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 1, 0)
	case SPDK_BDEV_IO_TYPE_NVME_IOV_MD:
		return spdk_bdev_nvme_iov_passthru_md(desc, ch, &io->u.nvme_passthru.cmd,
						      io->u.nvme_passthru.iovs,
						      io->u.nvme_passthru.iovcnt,
						      io->u.nvme_passthru.nbytes,
						      io->u.nvme_passthru.md_buf,
						      io->u.nvme_passthru.md_len, cb, ctx);
#endif
	default:
		return spdk_bdev_nvme_io_passthru_md(desc, ch, &io->u.nvme_passthru.cmd,
						     io->u.nvme_passthru.buf,
						     io->u.nvme_passthru.nbytes,
						     io->u.nvme_passthru.md_buf,
						     io->u.nvme_passthru.md_len, cb, ctx);
	}
}

static int
forward_zcopy(struct spdk_bdev_io *io, struct spdk_bdev_io *lent, struct spdk_bdev_desc *desc,
	      struct spdk_io_channel *ch, uint64_t offset, spdk_bdev_io_completion_cb cb, void *ctx)
{
	if (!io->u.bdev.zcopy.start) {
		return lent != NULL ? spdk_bdev_zcopy_end(lent, io->u.bdev.zcopy.commit, cb, ctx) : -EINVAL;
	}
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 7, 0)
	return spdk_bdev_zcopy_start(desc, ch, NULL, 0, offset, io->u.bdev.num_blocks,
				     io->u.bdev.zcopy.populate, cb, ctx);
#else
	return spdk_bdev_zcopy_start(desc, ch, offset, io->u.bdev.num_blocks, io->u.bdev.zcopy.populate,
				     cb, ctx);
#endif
}

int
spdkp_forward(struct spdk_bdev_io *io, struct spdk_bdev_io *lent, struct spdk_bdev_desc *desc,
	      struct spdk_io_channel *ch, uint64_t offset, spdk_bdev_io_completion_cb cb, void *ctx)
{
	switch (io->type) {
	case SPDK_BDEV_IO_TYPE_READ:
		return spdkp_forward_read(io, desc, ch, offset, cb, ctx);
	case SPDK_BDEV_IO_TYPE_WRITE:
		return spdkp_forward_write(io, desc, ch, offset, cb, ctx);
	case SPDK_BDEV_IO_TYPE_UNMAP:
		return spdk_bdev_unmap_blocks(desc, ch, offset, io->u.bdev.num_blocks, cb, ctx);
	case SPDK_BDEV_IO_TYPE_FLUSH:
		return spdk_bdev_flush_blocks(desc, ch, offset, io->u.bdev.num_blocks, cb, ctx);
	case SPDK_BDEV_IO_TYPE_WRITE_ZEROES:
		return spdk_bdev_write_zeroes_blocks(desc, ch, offset, io->u.bdev.num_blocks, cb, ctx);
	case SPDK_BDEV_IO_TYPE_RESET:
		return spdk_bdev_reset(desc, ch, cb, ctx);
	case SPDK_BDEV_IO_TYPE_COMPARE:
		return forward_compare(io, desc, ch, offset, cb, ctx);
	case SPDK_BDEV_IO_TYPE_COMPARE_AND_WRITE:
		return spdk_bdev_comparev_and_writev_blocks(desc, ch, io->u.bdev.iovs, io->u.bdev.iovcnt,
				io->u.bdev.fused_iovs, io->u.bdev.fused_iovcnt, offset,
				io->u.bdev.num_blocks, cb, ctx);
	case SPDK_BDEV_IO_TYPE_ZCOPY:
		return forward_zcopy(io, lent, desc, ch, offset, cb, ctx);
	case SPDK_BDEV_IO_TYPE_NVME_ADMIN:
	case SPDK_BDEV_IO_TYPE_NVME_IO:
	case SPDK_BDEV_IO_TYPE_NVME_IO_MD:
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 1, 0)
	case SPDK_BDEV_IO_TYPE_NVME_IOV_MD:
#endif
		return forward_nvme(io, desc, ch, cb, ctx);
	case SPDK_BDEV_IO_TYPE_GET_ZONE_INFO:
	case SPDK_BDEV_IO_TYPE_ZONE_MANAGEMENT:
	case SPDK_BDEV_IO_TYPE_ZONE_APPEND:
		return forward_zone(io, desc, ch, offset, cb, ctx);
#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 9, 0)
	case SPDK_BDEV_IO_TYPE_SEEK_DATA:
		return spdk_bdev_seek_data(desc, ch, offset, cb, ctx);
	case SPDK_BDEV_IO_TYPE_SEEK_HOLE:
		return spdk_bdev_seek_hole(desc, ch, offset, cb, ctx);
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
	case SPDK_BDEV_IO_TYPE_COPY:
		/* Both ranges are moved by the same number of blocks. */
		return spdk_bdev_copy_blocks(desc, ch, offset,
					     io->u.bdev.copy.src_offset_blocks + offset -
					     io->u.bdev.offset_blocks,
					     io->u.bdev.num_blocks, cb, ctx);
#endif
	default:
		return -ENOTSUP;
	}
}

bool
spdkp_forward_end(struct spdk_bdev_io *io, struct spdk_bdev_io *child, uint64_t offset, uint32_t *cdw0)
{
	int sct, sc;

	switch (io->type) {
	case SPDK_BDEV_IO_TYPE_ZCOPY:
		if (!io->u.bdev.zcopy.start) {
			return false;
		}
		/* The child keeps the memory, and its vectors, until the end. */
		io->u.bdev.iovs = child->u.bdev.iovs;
		io->u.bdev.iovcnt = child->u.bdev.iovcnt;
		return true;
	case SPDK_BDEV_IO_TYPE_NVME_ADMIN:
	case SPDK_BDEV_IO_TYPE_NVME_IO:
	case SPDK_BDEV_IO_TYPE_NVME_IO_MD:
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 1, 0)
	case SPDK_BDEV_IO_TYPE_NVME_IOV_MD:
#endif
		spdk_bdev_io_get_nvme_status(child, cdw0, &sct, &sc);
		return false;
	case SPDK_BDEV_IO_TYPE_ZONE_APPEND:
		/* Where an answer is read from. */
		io->u.bdev.offset_blocks += spdk_bdev_io_get_append_location(child) - offset;
		return false;
#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 9, 0)
	case SPDK_BDEV_IO_TYPE_SEEK_DATA:
	case SPDK_BDEV_IO_TYPE_SEEK_HOLE:
		io->u.bdev.seek.offset = spdk_bdev_io_get_seek_offset(child);
		if (io->u.bdev.seek.offset != UINT64_MAX) {
			io->u.bdev.seek.offset += io->u.bdev.offset_blocks - offset;
		}
		return false;
#endif
	default:
		return false;
	}
}
