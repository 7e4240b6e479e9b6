#include "module.h"

static char *
copy_or_null(const char *s)
{
	return s != NULL ? strdup(s) : NULL;
}

struct spdk_bdev *
spdkp_bdev_new(struct spdkp_module *module, const struct spdkp_bdev_opts *opts, void *ctx,
	       const char **needs)
{
	struct spdk_bdev *bdev;

	*needs = NULL;
#if SPDK_VERSION < SPDK_VERSION_NUM(24, 9, 0)
	if (opts->dif_pi_format != 0) {
		*needs = "24.09";
		return NULL;
	}
#endif
	bdev = calloc(1, sizeof(*bdev));
	if (bdev == NULL) {
		return NULL;
	}
	bdev->name = copy_or_null(opts->name);
	bdev->product_name = copy_or_null(opts->product_name);
	if (bdev->name == NULL || bdev->product_name == NULL) {
		spdkp_bdev_free(bdev);
		return NULL;
	}
	bdev->ctxt = ctx;
	bdev->module = &module->module;
	bdev->fn_table = &module->table;
	memcpy(&bdev->uuid, opts->uuid, sizeof(opts->uuid));
	bdev->blocklen = opts->block_size;
	bdev->blockcnt = opts->num_blocks;
	bdev->write_unit_size = opts->write_unit_size;
	bdev->write_cache = opts->write_cache;
	bdev->acwu = opts->acwu;
	bdev->required_alignment = opts->alignment_log2;
	bdev->optimal_io_boundary = opts->optimal_io_boundary;
	bdev->split_on_optimal_io_boundary = opts->split_on_optimal_io_boundary;
	bdev->md_len = opts->md_len;
	bdev->md_interleave = opts->md_interleave;
	bdev->dif_type = (enum spdk_dif_type)opts->dif_type;
	bdev->dif_is_head_of_md = opts->dif_is_head_of_md;
	bdev->dif_check_flags = opts->dif_check_flags;
	/* What follows are limits and hints that came later. The bdev layer of an older release does not
	 * split by them, and Rust promises no more than that. */
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 1, 0)
	bdev->max_segment_size = opts->max_segment_size;
	bdev->max_num_segments = opts->max_num_segments;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 7, 0)
	bdev->phys_blocklen = opts->physical_block_size;
	bdev->max_unmap = opts->max_unmap;
	bdev->max_unmap_segments = opts->max_unmap_segments;
	bdev->max_write_zeroes = opts->max_write_zeroes;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 9, 0)
	bdev->split_on_write_unit = opts->split_on_write_unit;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
	bdev->max_copy = opts->max_copy;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 1, 0)
	bdev->max_rw_size = opts->max_rw_size;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 9, 0)
	bdev->dif_pi_format = (enum spdk_dif_pi_format)opts->dif_pi_format;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 9, 0)
	bdev->preferred_write_alignment = opts->preferred_write_alignment;
	bdev->preferred_write_granularity = opts->preferred_write_granularity;
	bdev->optimal_write_size = opts->optimal_write_size;
	bdev->preferred_unmap_alignment = opts->preferred_unmap_alignment;
	bdev->preferred_unmap_granularity = opts->preferred_unmap_granularity;
#endif
	return bdev;
}

void
spdkp_bdev_free(struct spdk_bdev *bdev)
{
	free(bdev->name);
	free(bdev->product_name);
	free(bdev);
}

static void
find_name(void *ctx, const char *name)
{
	const char **wanted = ctx;

	if (*wanted != NULL && strcmp(*wanted, name) == 0) {
		*wanted = NULL;
	}
}

bool
spdkp_bdev_answers_to(struct spdk_bdev *bdev, const char *name)
{
	struct spdk_uuid uuid;
	const char *wanted = name;

	if (strcmp(spdk_bdev_get_name(bdev), name) == 0) {
		return true;
	}
	spdkp_bdev_aliases(bdev, find_name, &wanted);
	return wanted == NULL || (spdk_uuid_parse(&uuid, name) == 0 &&
				  spdk_uuid_compare(&uuid, spdk_bdev_get_uuid(bdev)) == 0);
}

int
spdkp_bdev_register(struct spdk_bdev *bdev)
{
	return spdk_bdev_register(bdev);
}

void
spdkp_bdev_uuid(const struct spdk_bdev *bdev, uint8_t out[16])
{
	memcpy(out, &bdev->uuid, 16);
}

const char *
spdkp_bdev_module_name(const struct spdk_bdev *bdev)
{
	return bdev->module->name;
}

void *
spdkp_bdev_ctx(const struct spdk_bdev *bdev)
{
	return bdev->ctxt;
}

bool
spdkp_bdev_is_of(const struct spdk_bdev *bdev, const struct spdkp_module *module)
{
	return bdev->module == &module->module;
}

void
spdkp_bdev_forget_aliases(struct spdk_bdev *bdev)
{
	spdk_bdev_alias_del_all(bdev);
}

bool
spdkp_bdev_uuid_taken(const uint8_t uuid[16])
{
	struct spdk_bdev *bdev;

	/* Before 22.05 a bdev is not found by its UUID as by a name. */
	for (bdev = spdk_bdev_first(); bdev != NULL; bdev = spdk_bdev_next(bdev)) {
		if (memcmp(spdk_bdev_get_uuid(bdev), uuid, 16) == 0) {
			return true;
		}
	}
	return false;
}
