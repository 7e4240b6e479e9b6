/* What is done to an open bdev besides I/O. */
#ifndef SPDKP_CONTROL_H
#define SPDKP_CONTROL_H

#include "spdk/bdev.h"

/* Called once, maybe before the function that takes it returns, maybe on another thread. */
typedef void (*spdkp_done_fn)(void *ctx, int rc);
/* Functions that return a release do nothing here: it is the first one that can. NULL: started. */

struct spdkp_op_stat {
	uint64_t ops;
	uint64_t bytes;
	uint64_t ticks;
	/* UINT64_MAX and 0: not known. */
	uint64_t min_ticks;
	uint64_t max_ticks;
};
struct spdkp_io_stat {
	struct spdkp_op_stat read;
	struct spdkp_op_stat write;
	struct spdkp_op_stat unmap;
	struct spdkp_op_stat copy;
	bool has_copy;
};
enum {
	SPDKP_STAT_KEEP,
	SPDKP_STAT_RESET_ALL,
	SPDKP_STAT_RESET_EXTREMES,
};
const char *spdkp_device_stat(struct spdk_bdev *bdev, int reset, struct spdkp_io_stat *out,
			      spdkp_done_fn done, void *ctx);
const char *spdkp_channel_stat(struct spdk_bdev *bdev, struct spdk_io_channel *ch, int reset,
			       struct spdkp_io_stat *out);
const char *spdkp_current_qd(struct spdk_bdev *bdev, uint64_t *out, spdkp_done_fn done, void *ctx);

/* SPDK 24.09 has io_type (0: all), 25.05 the others (granularity 0: SPDK's default). */
struct spdkp_histogram_opts {
	uint64_t min_nsec;
	uint64_t max_nsec;
	uint8_t io_type;
	uint8_t granularity;
};
const char *spdkp_histogram_enable(struct spdk_bdev *bdev, bool enable,
				   const struct spdkp_histogram_opts *opts, spdkp_done_fn done,
				   void *ctx);
/* Gives each bucket that is not empty, in ticks, end not included, before it is done. */
typedef void (*spdkp_bucket_fn)(void *ctx, uint64_t start, uint64_t end, uint64_t count);
void spdkp_histogram_get(struct spdk_bdev *bdev, spdkp_bucket_fn bucket, spdkp_done_fn done,
			 void *ctx);

/* As their return value tells, `done` is called only after 0. */
int spdkp_quiesce(struct spdk_bdev *bdev, uint64_t offset, uint64_t blocks, spdkp_done_fn done,
		  void *ctx, const char **needs);
int spdkp_unquiesce(struct spdk_bdev *bdev, uint64_t offset, uint64_t blocks, spdkp_done_fn done,
		    void *ctx);

enum {
	SPDKP_CLAIM_EXCLUSIVE = 1,
	SPDKP_CLAIM_READ_MANY_WRITE_ONE,
	SPDKP_CLAIM_READ_MANY_WRITE_NONE,
	SPDKP_CLAIM_READ_MANY_WRITE_SHARED,
};
struct spdkp_module;
/* For the module, or NULL for a program that has none. On the app thread, as the next. */
int spdkp_claim(struct spdk_bdev_desc *desc, int kind, const char *name, uint64_t key,
		struct spdkp_module *module, const char **needs);
/* Other kinds go when the descriptor is closed. */
void spdkp_release_exclusive(struct spdk_bdev *bdev);

#endif
