#include "spdkp.h"

#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 5, 0)
#pragma weak spdk_bdev_open_ext_v2
#pragma weak spdk_bdev_open_opts_init
#pragma weak spdk_bdev_desc_get_block_size
#pragma weak spdk_bdev_desc_get_md_size
#pragma weak spdk_bdev_desc_is_md_interleaved
#endif

int
spdkp_desc_open(const char *name, bool write, bool hide_metadata, spdk_bdev_event_cb_t event_cb,
		void *ctx, struct spdk_bdev_desc **desc, const char **needs)
{
	int rc;

	*desc = NULL;
	*needs = NULL;
#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 5, 0)
	if (hide_metadata) {
		struct spdk_bdev_open_opts opts;

		spdk_bdev_open_opts_init(&opts, sizeof(opts));
		opts.hide_metadata = true;
		return spdk_bdev_open_ext_v2(name, write, event_cb, ctx, &opts, desc);
	}
#else
	if (hide_metadata) {
		*needs = "25.05";
		return -ENOTSUP;
	}
#endif
	rc = spdk_bdev_open_ext(name, write, event_cb, ctx, desc);
#if SPDK_VERSION < SPDK_VERSION_NUM(20, 10, 0)
	/* The callback is there, so nothing else is invalid. */
	if (rc == -EINVAL) {
		rc = -ENODEV;
	}
#endif
	return rc;
}

#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 5, 0)
uint32_t
spdkp_desc_block_size(struct spdk_bdev_desc *desc)
{
	return spdk_bdev_desc_get_block_size(desc);
}

uint32_t
spdkp_desc_md_size(struct spdk_bdev_desc *desc)
{
	return spdk_bdev_desc_get_md_size(desc);
}

bool
spdkp_desc_md_interleaved(struct spdk_bdev_desc *desc)
{
	return spdk_bdev_desc_is_md_interleaved(desc);
}
#else
uint32_t
spdkp_desc_block_size(struct spdk_bdev_desc *desc)
{
	return spdk_bdev_get_block_size(spdk_bdev_desc_get_bdev(desc));
}

uint32_t
spdkp_desc_md_size(struct spdk_bdev_desc *desc)
{
	return spdk_bdev_get_md_size(spdk_bdev_desc_get_bdev(desc));
}

bool
spdkp_desc_md_interleaved(struct spdk_bdev_desc *desc)
{
	return spdk_bdev_is_md_interleaved(spdk_bdev_desc_get_bdev(desc));
}
#endif

#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 9, 0)
bool
spdkp_desc_close_is_misplaced(struct spdk_bdev_desc *desc)
{
	return false;
}

void
spdkp_desc_stop_sampling(struct spdk_bdev_desc *desc)
{
}
#else
bool
spdkp_desc_close_is_misplaced(struct spdk_bdev_desc *desc)
{
	return spdk_bdev_get_qd_sampling_period(spdk_bdev_desc_get_bdev(desc)) != 0 &&
	       !spdkp_on_app_thread();
}

void
spdkp_desc_stop_sampling(struct spdk_bdev_desc *desc)
{
	spdk_bdev_set_qd_sampling_period(spdk_bdev_desc_get_bdev(desc), 0);
}
#endif
