/* What a bdev says of itself. */
#ifndef SPDKP_INFO_H
#define SPDKP_INFO_H

#include "spdk/bdev.h"

#define SPDKP_UNKNOWN UINT32_MAX

/* SPDKP_UNKNOWN stands where the release does not tell. The strings are the bdev's own. */
struct spdkp_bdev_info {
	const char *name;
	const char *product_name;
	const char *module_name;
	/* The module that has claimed it exclusively. */
	const char *claimer;
	uint8_t uuid[16];
	uint64_t num_blocks;
	uint64_t zone_size;
	uint64_t num_zones;
	uint32_t block_size;
	uint32_t data_block_size;
	uint32_t physical_block_size;
	uint32_t write_unit_size;
	uint32_t optimal_io_boundary;
	uint32_t alignment;
	uint32_t acwu;
	uint32_t md_size;
	uint32_t dif_type;
	uint32_t dif_pi_format;
	uint32_t dif_checks;
	uint32_t max_rw_size;
	uint32_t max_segment_size;
	uint32_t max_num_segments;
	uint32_t max_unmap;
	uint32_t max_unmap_segments;
	uint32_t max_write_zeroes;
	uint32_t max_copy;
	uint32_t preferred_write_alignment;
	uint32_t preferred_write_granularity;
	uint32_t optimal_write_size;
	uint32_t preferred_unmap_alignment;
	uint32_t preferred_unmap_granularity;
	uint32_t max_zone_append_size;
	uint32_t max_open_zones;
	uint32_t max_active_zones;
	uint32_t optimal_open_zones;
	uint32_t numa_id;
	/* Bit n: supports I/O type n. */
	uint32_t io_types;
	bool md_interleaved;
	bool dif_at_head;
	bool write_cache;
	bool zoned;
	bool media_events;
	bool claimed;
};
enum {
	SPDKP_DIF_CHECK_GUARD = 1,
	SPDKP_DIF_CHECK_APP_TAG = 2,
	SPDKP_DIF_CHECK_REF_TAG = 4,
};

/* The bdev is open meanwhile. On the app thread, where aliases and claims change. */
void spdkp_bdev_info(struct spdk_bdev *bdev, struct spdkp_bdev_info *info);

typedef void (*spdkp_name_fn)(void *ctx, const char *name);
/* On the app thread, as the next two. */
void spdkp_bdev_aliases(struct spdk_bdev *bdev, spdkp_name_fn fn, void *ctx);
/* The name of each bdev, or of each that no module has claimed. */
void spdkp_bdev_names(bool leaves, spdkp_name_fn fn, void *ctx);
/* The name of the bdev of this UUID. */
void spdkp_bdev_name_of(const uint8_t uuid[16], spdkp_name_fn fn, void *ctx);

#endif
