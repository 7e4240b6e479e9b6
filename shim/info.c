#include "spdkp.h"
#include "spdk/bdev_zone.h"

static const char *
claimer(const struct spdk_bdev *bdev, bool *claimed)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
	*claimed = bdev->internal.claim_type != SPDK_BDEV_CLAIM_NONE;
	if (bdev->internal.claim_type == SPDK_BDEV_CLAIM_EXCL_WRITE) {
		return bdev->internal.claim.v1.module->name;
	}
	return NULL;
#else
	*claimed = bdev->internal.claim_module != NULL;
	return *claimed ? bdev->internal.claim_module->name : NULL;
#endif
}

void
spdkp_bdev_info(struct spdk_bdev *bdev, struct spdkp_bdev_info *info)
{
	int type;

	memset(info, 0, sizeof(*info));
	info->name = spdk_bdev_get_name(bdev);
	info->product_name = spdk_bdev_get_product_name(bdev);
	info->module_name = bdev->module->name;
	info->claimer = claimer(bdev, &info->claimed);
	memcpy(info->uuid, spdk_bdev_get_uuid(bdev), sizeof(info->uuid));
	info->num_blocks = spdk_bdev_get_num_blocks(bdev);
	info->block_size = spdk_bdev_get_block_size(bdev);
	info->data_block_size = spdk_bdev_get_data_block_size(bdev);
	info->write_unit_size = spdk_bdev_get_write_unit_size(bdev);
	info->optimal_io_boundary = spdk_bdev_get_optimal_io_boundary(bdev);
	info->alignment = spdk_bdev_get_buf_align(bdev);
	info->acwu = spdk_bdev_get_acwu(bdev);
	info->md_size = spdk_bdev_get_md_size(bdev);
	info->md_interleaved = spdk_bdev_is_md_interleaved(bdev);
	info->write_cache = spdk_bdev_has_write_cache(bdev);
	info->media_events = bdev->media_events;
	info->dif_type = spdk_bdev_get_dif_type(bdev);
	info->dif_at_head = spdk_bdev_is_dif_head_of_md(bdev);
	info->dif_checks =
		(spdk_bdev_is_dif_check_enabled(bdev, SPDK_DIF_CHECK_TYPE_GUARD) ?
		 SPDKP_DIF_CHECK_GUARD : 0) |
		(spdk_bdev_is_dif_check_enabled(bdev, SPDK_DIF_CHECK_TYPE_APPTAG) ?
		 SPDKP_DIF_CHECK_APP_TAG : 0) |
		(spdk_bdev_is_dif_check_enabled(bdev, SPDK_DIF_CHECK_TYPE_REFTAG) ?
		 SPDKP_DIF_CHECK_REF_TAG : 0);
	for (type = 1; type < SPDK_BDEV_NUM_IO_TYPES && type < 32; type++) {
		if (spdk_bdev_io_type_supported(bdev, (enum spdk_bdev_io_type)type)) {
			info->io_types |= 1u << type;
		}
	}

	info->zoned = spdk_bdev_is_zoned(bdev);
	info->zone_size = spdk_bdev_get_zone_size(bdev);
	info->num_zones = info->zone_size != 0 ? info->num_blocks / info->zone_size : 0;
	info->max_open_zones = spdk_bdev_get_max_open_zones(bdev);
	info->optimal_open_zones = spdk_bdev_get_optimal_open_zones(bdev);
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 4, 0)
	info->max_zone_append_size = bdev->max_zone_append_size;
	info->max_active_zones = bdev->max_active_zones;
#else
	info->max_zone_append_size = SPDKP_UNKNOWN;
	info->max_active_zones = SPDKP_UNKNOWN;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 1, 0)
	info->max_segment_size = bdev->max_segment_size;
	info->max_num_segments = bdev->max_num_segments;
#else
	info->max_segment_size = SPDKP_UNKNOWN;
	info->max_num_segments = SPDKP_UNKNOWN;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 7, 0)
	info->physical_block_size = bdev->phys_blocklen;
	info->max_unmap = bdev->max_unmap;
	info->max_unmap_segments = bdev->max_unmap_segments;
	info->max_write_zeroes = bdev->max_write_zeroes;
#else
	info->physical_block_size = SPDKP_UNKNOWN;
	info->max_unmap = SPDKP_UNKNOWN;
	info->max_unmap_segments = SPDKP_UNKNOWN;
	info->max_write_zeroes = SPDKP_UNKNOWN;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
	info->max_copy = bdev->max_copy;
#else
	info->max_copy = SPDKP_UNKNOWN;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 1, 0)
	info->max_rw_size = bdev->max_rw_size;
#else
	info->max_rw_size = SPDKP_UNKNOWN;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 9, 0)
	info->dif_pi_format = bdev->dif_pi_format;
	info->numa_id = bdev->numa.id_valid ? (uint32_t)bdev->numa.id : SPDKP_UNKNOWN;
#else
	info->numa_id = SPDKP_UNKNOWN;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 9, 0)
	info->preferred_write_alignment = bdev->preferred_write_alignment;
	info->preferred_write_granularity = bdev->preferred_write_granularity;
	info->optimal_write_size = bdev->optimal_write_size;
	info->preferred_unmap_alignment = bdev->preferred_unmap_alignment;
	info->preferred_unmap_granularity = bdev->preferred_unmap_granularity;
#else
	info->preferred_write_alignment = SPDKP_UNKNOWN;
	info->preferred_write_granularity = SPDKP_UNKNOWN;
	info->optimal_write_size = SPDKP_UNKNOWN;
	info->preferred_unmap_alignment = SPDKP_UNKNOWN;
	info->preferred_unmap_granularity = SPDKP_UNKNOWN;
#endif
}

void
spdkp_bdev_aliases(struct spdk_bdev *bdev, spdkp_name_fn fn, void *ctx)
{
	const struct spdk_bdev_alias *alias;

	TAILQ_FOREACH(alias, spdk_bdev_get_aliases(bdev), tailq) {
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 7, 0)
		fn(ctx, alias->alias.name);
#else
		fn(ctx, alias->alias);
#endif
	}
}

#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 5, 0)
#pragma weak spdk_for_each_bdev
#pragma weak spdk_for_each_bdev_leaf

struct names {
	spdkp_name_fn fn;
	void *ctx;
};

static int
pass_name(void *ctx, struct spdk_bdev *bdev)
{
	struct names *names = ctx;

	names->fn(names->ctx, spdk_bdev_get_name(bdev));
	return 0;
}

void
spdkp_bdev_names(bool leaves, spdkp_name_fn fn, void *ctx)
{
	struct names names = { fn, ctx };

	if (leaves) {
		spdk_for_each_bdev_leaf(&names, pass_name);
	} else {
		spdk_for_each_bdev(&names, pass_name);
	}
}
#else
void
spdkp_bdev_names(bool leaves, spdkp_name_fn fn, void *ctx)
{
	struct spdk_bdev *bdev = leaves ? spdk_bdev_first_leaf() : spdk_bdev_first();

	while (bdev != NULL) {
		fn(ctx, spdk_bdev_get_name(bdev));
		bdev = leaves ? spdk_bdev_next_leaf(bdev) : spdk_bdev_next(bdev);
	}
}
#endif

void
spdkp_bdev_name_of(const uint8_t uuid[16], spdkp_name_fn fn, void *ctx)
{
	struct spdk_bdev *bdev;

	for (bdev = spdk_bdev_first(); bdev != NULL; bdev = spdk_bdev_next(bdev)) {
		if (memcmp(spdk_bdev_get_uuid(bdev), uuid, 16) == 0) {
			fn(ctx, spdk_bdev_get_name(bdev));
			return;
		}
	}
}
