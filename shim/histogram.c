#include "spdkp.h"
#include "spdk/histogram_data.h"

#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 9, 0)
#pragma weak spdk_bdev_histogram_enable_ext
#pragma weak spdk_bdev_enable_histogram_opts_init
#endif

const char *
spdkp_histogram_enable(struct spdk_bdev *bdev, bool enable, const struct spdkp_histogram_opts *opts,
		       spdkp_done_fn done, void *ctx)
{
#if SPDK_VERSION < SPDK_VERSION_NUM(25, 1, 0)
	if (opts->granularity != 0 || opts->min_nsec != 0 || opts->max_nsec != UINT64_MAX) {
		return "25.05";
	}
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 9, 0)
	struct spdk_bdev_enable_histogram_opts spdk_opts;

	spdk_bdev_enable_histogram_opts_init(&spdk_opts, sizeof(spdk_opts));
	spdk_opts.io_type = opts->io_type;
#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 1, 0)
	spdk_opts.min_nsec = opts->min_nsec;
	spdk_opts.max_nsec = opts->max_nsec;
	if (opts->granularity != 0) {
		spdk_opts.granularity = opts->granularity;
	}
#endif
	spdk_bdev_histogram_enable_ext(bdev, done, ctx, enable, &spdk_opts);
#else
	if (opts->io_type != 0) {
		return "24.09";
	}
	spdk_bdev_histogram_enable(bdev, done, ctx, enable);
#endif
	return NULL;
}

struct histogram_ctx {
	struct spdk_histogram_data *data;
	spdkp_bucket_fn bucket;
	spdkp_done_fn done;
	void *ctx;
};

static void
pass_bucket(void *arg, uint64_t start, uint64_t end, uint64_t count, uint64_t total, uint64_t so_far)
{
	const struct histogram_ctx *ctx = arg;

	if (count != 0) {
		ctx->bucket(ctx->ctx, start, end, count);
	}
}

static void
histogram_done(void *arg, int rc, struct spdk_histogram_data *data)
{
	struct histogram_ctx *ctx = arg;

	if (rc == 0) {
		spdk_histogram_data_iterate(ctx->data, pass_bucket, ctx);
	}
	spdk_histogram_data_free(ctx->data);
	ctx->done(ctx->ctx, rc);
	free(ctx);
}

/* Histograms can be added only when they are alike. */
static struct spdk_histogram_data *
alike(const struct spdk_bdev *bdev)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 1, 0)
	if (!bdev->internal.histogram_enabled) {
		return spdk_histogram_data_alloc();
	}
	return spdk_histogram_data_alloc_sized_ext(bdev->internal.histogram_granularity,
			bdev->internal.histogram_min_val,
			bdev->internal.histogram_max_val);
#else
	return spdk_histogram_data_alloc();
#endif
}

void
spdkp_histogram_get(struct spdk_bdev *bdev, spdkp_bucket_fn bucket, spdkp_done_fn done, void *arg)
{
	struct histogram_ctx *ctx;

	if (!bdev->internal.histogram_enabled) {
		/* Nor does SPDK say anything else. */
		done(arg, -EFAULT);
		return;
	}
	ctx = calloc(1, sizeof(*ctx));
	if (ctx != NULL) {
		ctx->data = alike(bdev);
	}
	if (ctx == NULL || ctx->data == NULL) {
		free(ctx);
		done(arg, -ENOMEM);
		return;
	}
	ctx->bucket = bucket;
	ctx->done = done;
	ctx->ctx = arg;
	spdk_bdev_histogram_get(bdev, ctx->data, histogram_done, ctx);
}
