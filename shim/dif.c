#include "spdkp.h"
#include "spdk/dif.h"

static int
init_ctx(struct spdk_dif_ctx *ctx, const struct spdk_bdev_io *io)
{
	const struct spdk_bdev *bdev = io->bdev;
	uint64_t offset_blocks = io->u.bdev.offset_blocks;
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0)
	/* The submitter may have some checks left out. */
	uint32_t flags = io->u.bdev.dif_check_flags;
#else
	uint32_t flags = bdev->dif_check_flags;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 9, 0)
	struct spdk_dif_ctx_init_ext_opts opts = { .size = sizeof(opts) };

#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 9, 0)
	opts.dif_pi_format = bdev->dif_pi_format;
#endif
	return spdk_dif_ctx_init(ctx, bdev->blocklen, bdev->md_len, bdev->md_interleave,
				 bdev->dif_is_head_of_md, bdev->dif_type, flags,
				 offset_blocks & 0xFFFFFFFF, 0xFFFF, 0, 0, 0, &opts);
#else
	return spdk_dif_ctx_init(ctx, bdev->blocklen, bdev->md_len, bdev->md_interleave,
				 bdev->dif_is_head_of_md, bdev->dif_type, flags,
				 offset_blocks & 0xFFFFFFFF, 0xFFFF, 0, 0, 0);
#endif
}

int
spdkp_dif_generate(struct spdk_bdev_io *io)
{
	struct spdk_dif_ctx ctx;
	struct iovec md = {
		.iov_base = io->u.bdev.md_buf,
		.iov_len = io->u.bdev.num_blocks * io->bdev->md_len,
	};
	int rc = init_ctx(&ctx, io);

	if (rc != 0) {
		return rc;
	}
	if (io->bdev->md_interleave) {
		return spdk_dif_generate(io->u.bdev.iovs, io->u.bdev.iovcnt, io->u.bdev.num_blocks, &ctx);
	}
	if (io->u.bdev.md_buf == NULL) {
		return 0;
	}
	return spdk_dix_generate(io->u.bdev.iovs, io->u.bdev.iovcnt, &md, io->u.bdev.num_blocks, &ctx);
}

int
spdkp_dif_verify(struct spdk_bdev_io *io, uint32_t *bad_block)
{
	struct spdk_dif_ctx ctx;
	struct spdk_dif_error err = { 0 };
	struct iovec md = {
		.iov_base = io->u.bdev.md_buf,
		.iov_len = io->u.bdev.num_blocks * io->bdev->md_len,
	};
	int rc = init_ctx(&ctx, io);

	if (rc != 0) {
		return rc;
	}
	if (io->bdev->md_interleave) {
		rc = spdk_dif_verify(io->u.bdev.iovs, io->u.bdev.iovcnt, io->u.bdev.num_blocks, &ctx, &err);
	} else if (io->u.bdev.md_buf != NULL) {
		rc = spdk_dix_verify(io->u.bdev.iovs, io->u.bdev.iovcnt, &md, io->u.bdev.num_blocks, &ctx,
				     &err);
	}
	*bad_block = err.err_offset;
	return rc;
}
