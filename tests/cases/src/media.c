/* A bdev that tells of media events: SPDK's own one needs an open-channel SSD. */
#include "spdk/stdinc.h"
#include "spdk/bdev_module.h"

void
case_has_media_events(const char *name)
{
	spdk_bdev_get_by_name(name)->media_events = true;
}

int
case_push_media_event(const char *name, uint64_t offset, uint64_t num_blocks)
{
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(name);
	struct spdk_bdev_media_event event = { .offset = offset, .num_blocks = num_blocks };

	return spdk_bdev_push_media_events(bdev, &event, 1);
}

void
case_notify_media_events(const char *name)
{
	spdk_bdev_notify_media_management(spdk_bdev_get_by_name(name));
}
