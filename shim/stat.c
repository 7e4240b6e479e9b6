#include "spdkp.h"

struct stat_ctx {
	struct spdk_bdev_io_stat stat;
	struct spdkp_io_stat *out;
	spdkp_done_fn done;
	void *ctx;
};

#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
#define EXTREMES(op) \
	.min_ticks = stat->min_##op##_latency_ticks, .max_ticks = stat->max_##op##_latency_ticks
#else
#define EXTREMES(op) .min_ticks = UINT64_MAX, .max_ticks = 0
#endif

static void
convert(const struct spdk_bdev_io_stat *stat, struct spdkp_io_stat *out)
{
	*out = (struct spdkp_io_stat) {
		.read = {
			.ops = stat->num_read_ops, .bytes = stat->bytes_read,
			.ticks = stat->read_latency_ticks, EXTREMES(read),
		},
		.write = {
			.ops = stat->num_write_ops, .bytes = stat->bytes_written,
			.ticks = stat->write_latency_ticks, EXTREMES(write),
		},
		.unmap = {
			.ops = stat->num_unmap_ops, .bytes = stat->bytes_unmapped,
			.ticks = stat->unmap_latency_ticks, EXTREMES(unmap),
		},
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
		.copy = {
			.ops = stat->num_copy_ops, .bytes = stat->bytes_copied,
			.ticks = stat->copy_latency_ticks, EXTREMES(copy),
		},
		.has_copy = true,
#endif
	};
}

#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 1, 0)
static enum spdk_bdev_reset_stat_mode
mode(int reset)
{
	switch (reset) {
	case SPDKP_STAT_RESET_ALL:
		return SPDK_BDEV_RESET_STAT_ALL;
	case SPDKP_STAT_RESET_EXTREMES:
		return SPDK_BDEV_RESET_STAT_MAXMIN;
	default:
		return SPDK_BDEV_RESET_STAT_NONE;
	}
}
#endif

static void
stat_done(struct spdk_bdev *bdev, struct spdk_bdev_io_stat *stat, void *arg, int rc)
{
	struct stat_ctx *ctx = arg;

	convert(&ctx->stat, ctx->out);
	ctx->done(ctx->ctx, rc);
	free(ctx);
}

const char *
spdkp_device_stat(struct spdk_bdev *bdev, int reset, struct spdkp_io_stat *out, spdkp_done_fn done,
		  void *arg)
{
	struct stat_ctx *ctx;

#if SPDK_VERSION < SPDK_VERSION_NUM(25, 1, 0)
	if (reset != SPDKP_STAT_KEEP) {
		return "25.05";
	}
#endif
	ctx = calloc(1, sizeof(*ctx));
	if (ctx == NULL) {
		done(arg, -ENOMEM);
		return NULL;
	}
	ctx->out = out;
	ctx->done = done;
	ctx->ctx = arg;
#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 1, 0)
	spdk_bdev_get_device_stat(bdev, &ctx->stat, mode(reset), stat_done, ctx);
#else
	spdk_bdev_get_device_stat(bdev, &ctx->stat, stat_done, ctx);
#endif
	return NULL;
}

const char *
spdkp_channel_stat(struct spdk_bdev *bdev, struct spdk_io_channel *ch, int reset,
		   struct spdkp_io_stat *out)
{
	struct spdk_bdev_io_stat stat = { 0 };

#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 1, 0)
	spdk_bdev_get_io_stat(bdev, ch, &stat, mode(reset));
#else
	if (reset != SPDKP_STAT_KEEP) {
		return "25.05";
	}
	spdk_bdev_get_io_stat(bdev, ch, &stat);
#endif
	convert(&stat, out);
	return NULL;
}

#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 9, 0)
#pragma weak spdk_bdev_get_current_qd

struct qd_ctx {
	uint64_t *out;
	spdkp_done_fn done;
	void *ctx;
};

static void
qd_done(struct spdk_bdev *bdev, uint64_t qd, void *arg, int rc)
{
	struct qd_ctx *ctx = arg;

	*ctx->out = qd;
	ctx->done(ctx->ctx, rc);
	free(ctx);
}

const char *
spdkp_current_qd(struct spdk_bdev *bdev, uint64_t *out, spdkp_done_fn done, void *arg)
{
	struct qd_ctx *ctx = calloc(1, sizeof(*ctx));

	if (ctx == NULL) {
		done(arg, -ENOMEM);
		return NULL;
	}
	ctx->out = out;
	ctx->done = done;
	ctx->ctx = arg;
	spdk_bdev_get_current_qd(bdev, qd_done, ctx);
	return NULL;
}
#else
const char *
spdkp_current_qd(struct spdk_bdev *bdev, uint64_t *out, spdkp_done_fn done, void *arg)
{
	return "22.09";
}
#endif
