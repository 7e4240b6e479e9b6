#define _GNU_SOURCE
#include "module.h"
#include <dlfcn.h>

#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 10, 0)
#pragma weak spdk_bdev_module_fini_start_done
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 10, 0)
#pragma weak spdk_bdev_module_fini_done
#else
#pragma weak spdk_bdev_module_finish_done
#endif

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

#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 5, 0)
#pragma weak spdk_bdev_get_memory_domains

static struct spdk_bdev *(*g_domains_of)(void *ctx);

static int
get_memory_domains(void *ctx, struct spdk_memory_domain **domains, int size)
{
	struct spdk_bdev *base = g_domains_of(ctx);

	return base != NULL ? spdk_bdev_get_memory_domains(base, domains, size) : 0;
}
#endif

#if SPDK_VERSION >= SPDK_VERSION_NUM(26, 9, 0)
#pragma weak spdk_bdev_get_memory_domain_types

static int
get_memory_domain_types(void *ctx, enum spdk_dma_device_type *types, uint32_t size)
{
	struct spdk_bdev *base = g_domains_of(ctx);

	return base != NULL ? spdk_bdev_get_memory_domain_types(base, types, size) : 0;
}
#endif

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
	m->module.async_init = ops->init_waits;
	m->module.async_fini = ops->fini_waits;
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 10, 0)
	m->module.async_fini_start = ops->fini_start_waits;
#endif
	m->module.config_json = ops->write_module_config;
	m->module.examine_config = ops->examine_config;
	m->module.examine_disk = ops->examine_disk;
	m->table.destruct = ops->destruct;
	m->table.submit_request = ops->submit_request;
	m->table.io_type_supported = ops->io_type_supported;
	m->table.get_io_channel = get_io_channel;
	m->table.dump_info_json = ops->dump_info;
	m->table.write_config_json = write_config_json;
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 5, 0)
	g_domains_of = ops->domains_of;
	m->table.get_memory_domains = get_memory_domains;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(26, 9, 0)
	m->table.get_memory_domain_types = get_memory_domain_types;
#endif
	spdk_bdev_module_list_add(&m->module);
	return m;
}

void
spdkp_module_init_done(struct spdkp_module *module)
{
	spdk_bdev_module_init_done(&module->module);
}

void
spdkp_module_fini_start_done(void)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 10, 0)
	spdk_bdev_module_fini_start_done();
#endif
}

void
spdkp_module_fini_done(void)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 10, 0)
	spdk_bdev_module_fini_done();
#else
	spdk_bdev_module_finish_done();
#endif
}

void
spdkp_examine_done(struct spdkp_module *module)
{
	spdk_bdev_module_examine_done(&module->module);
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
