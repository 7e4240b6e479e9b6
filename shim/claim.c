#include "module.h"

#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 5, 0)
#pragma weak spdk_bdev_module_claim_bdev_desc
#pragma weak spdk_bdev_claim_opts_init
#pragma weak spdk_bdev_quiesce_range
#pragma weak spdk_bdev_unquiesce_range
#endif

/* Who claims for a program that has no module. SPDK reads the name, and never hears of it otherwise. */
static struct spdk_bdev_module g_claimer = {
	.name = "spdk_plugin",
};

int
spdkp_claim(struct spdk_bdev_desc *desc, int kind, const char *name, uint64_t key,
	    struct spdkp_module *module, const char **needs)
{
	struct spdk_bdev_module *claimer = module != NULL ? &module->module : &g_claimer;
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 5, 0)
	struct spdk_bdev_claim_opts opts;
#endif

	*needs = NULL;
	if (kind == SPDKP_CLAIM_EXCLUSIVE) {
		return spdk_bdev_module_claim_bdev(spdk_bdev_desc_get_bdev(desc), desc, claimer);
	}
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 5, 0)
	spdk_bdev_claim_opts_init(&opts, sizeof(opts));
	snprintf(opts.name, sizeof(opts.name), "%s", name);
	opts.shared_claim_key = key;
	return spdk_bdev_module_claim_bdev_desc(desc,
						kind == SPDKP_CLAIM_READ_MANY_WRITE_ONE ?
						SPDK_BDEV_CLAIM_READ_MANY_WRITE_ONE :
						kind == SPDKP_CLAIM_READ_MANY_WRITE_NONE ?
						SPDK_BDEV_CLAIM_READ_MANY_WRITE_NONE :
						SPDK_BDEV_CLAIM_READ_MANY_WRITE_SHARED,
						&opts, claimer);
#else
	*needs = "23.05";
	return -ENOTSUP;
#endif
}

void
spdkp_release_exclusive(struct spdk_bdev *bdev)
{
	spdk_bdev_module_release_bdev(bdev);
}

#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 5, 0)
int
spdkp_quiesce(struct spdk_bdev *bdev, uint64_t offset, uint64_t blocks, spdkp_done_fn done, void *ctx,
	      const char **needs)
{
	*needs = NULL;
	return spdk_bdev_quiesce_range(bdev, bdev->module, offset, blocks, done, ctx);
}

int
spdkp_unquiesce(struct spdk_bdev *bdev, uint64_t offset, uint64_t blocks, spdkp_done_fn done, void *ctx)
{
	return spdk_bdev_unquiesce_range(bdev, bdev->module, offset, blocks, done, ctx);
}
#else
int
spdkp_quiesce(struct spdk_bdev *bdev, uint64_t offset, uint64_t blocks, spdkp_done_fn done, void *ctx,
	      const char **needs)
{
	*needs = "23.05";
	return -ENOTSUP;
}

int
spdkp_unquiesce(struct spdk_bdev *bdev, uint64_t offset, uint64_t blocks, spdkp_done_fn done, void *ctx)
{
	return -ENOTSUP;
}
#endif
