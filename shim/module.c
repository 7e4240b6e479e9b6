#define _GNU_SOURCE
#include "module.h"
#include <dlfcn.h>

static struct spdk_io_channel *
get_io_channel(void *ctx)
{
	return spdk_get_io_channel(ctx);
}

static void
write_config_json(struct spdk_bdev *bdev, struct spdk_json_write_ctx *w)
{
	const struct spdkp_module *module = SPDK_CONTAINEROF(bdev->module, struct spdkp_module, module);

	module->ops.write_config(bdev->ctxt, w);
}

struct spdkp_module *
spdkp_module_add(const char *name, const struct spdkp_module_ops *ops)
{
	struct spdkp_module *m = calloc(1, sizeof(*m));

	if (m == NULL) {
		return NULL;
	}
	m->ops = *ops;
	m->module.name = name;
	m->module.module_init = ops->init;
	m->module.fini_start = ops->fini_start;
	m->module.module_fini = ops->fini;
	m->module.get_ctx_size = ops->ctx_size;
	m->table.destruct = ops->destruct;
	m->table.submit_request = ops->submit_request;
	m->table.io_type_supported = ops->io_type_supported;
	m->table.get_io_channel = get_io_channel;
	m->table.dump_info_json = ops->dump_info;
	m->table.write_config_json = write_config_json;
	spdk_bdev_module_list_add(&m->module);
	return m;
}

const char *
spdkp_module_origin(const char *name)
{
	struct spdk_bdev_module *module = spdk_bdev_module_list_find(name);
	Dl_info info;

	if (module == NULL) {
		return NULL;
	}
	if (dladdr((void *)module->module_init, &info) != 0 && info.dli_fname != NULL) {
		return info.dli_fname;
	}
	return "";
}
