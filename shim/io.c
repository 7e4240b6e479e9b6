#include "spdkp.h"

uint32_t
spdkp_io_zcopy_flags(const struct spdk_bdev_io *io)
{
	return (io->u.bdev.zcopy.start ? SPDKP_ZCOPY_START : 0) |
	       (io->u.bdev.zcopy.populate ? SPDKP_ZCOPY_POPULATE : 0) |
	       (io->u.bdev.zcopy.commit ? SPDKP_ZCOPY_COMMIT : 0);
}

uint64_t
spdkp_io_copy_source(const struct spdk_bdev_io *io)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
	return io->u.bdev.copy.src_offset_blocks;
#else
	/* COPY does not exist here, so no request of this kind can arrive. */
	return io->u.bdev.offset_blocks;
#endif
}

void
spdkp_io_nvme(const struct spdk_bdev_io *io, struct spdkp_nvme *out)
{
	out->cmd = &io->u.nvme_passthru.cmd;
	out->buf = io->u.nvme_passthru.buf;
	out->len = io->u.nvme_passthru.nbytes;
	out->md_buf = io->u.nvme_passthru.md_buf;
	out->md_len = io->u.nvme_passthru.md_len;
}

#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 1, 0)
#pragma weak spdk_bdev_io_complete_aio_status

void
spdkp_io_complete_errno(struct spdk_bdev_io *io, int err)
{
	spdk_bdev_io_complete_aio_status(io, -err);
}
#else
void
spdkp_io_complete_errno(struct spdk_bdev_io *io, int err)
{
	(void)err;
	spdk_bdev_io_complete(io, SPDK_BDEV_IO_STATUS_FAILED);
}
#endif

bool
spdkp_io_in_domain(const struct spdk_bdev_io *io)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 5, 0)
	return io->u.bdev.memory_domain != NULL;
#else
	return false;
#endif
}
