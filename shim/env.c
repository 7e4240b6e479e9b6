#include "spdkp.h"
#include "spdk/env.h"
#include "spdk/env_dpdk.h"
#include "spdk/log.h"

bool
spdkp_unlink(const struct spdkp_opts *o, int shm_id, bool no_huge)
{
	if (o->unlink_hugepages >= 0) {
		return o->unlink_hugepages;
	}
	if (o->env_context != NULL && strstr(o->env_context, "--no-huge") != NULL) {
		return false;
	}
	/* Nobody else may want to map them. */
	return shm_id < 0 && !no_huge;
}

#if SPDK_VERSION < SPDK_VERSION_NUM(21, 10, 0)
/* DPDK's headers are not installed with SPDK. */
int rte_eal_init(int argc, char **argv);
#pragma weak rte_eal_init
#pragma weak spdk_env_dpdk_post_init

/* SPDK's own arguments for DPDK exclude --no-huge here, but it takes over from who brought DPDK up. */
static int
init_without_hugepages(const struct spdkp_opts *o)
{
	static char text[16][256];
	char *argv[18], *extra = NULL;
	int argc = 0, was = optind, rc;

#define ADD(...) do { \
		snprintf(text[argc], sizeof(text[argc]), __VA_ARGS__); \
		argv[argc] = text[argc]; \
		argc++; \
	} while (0)
	if (rte_eal_init == NULL || spdk_env_dpdk_post_init == NULL) {
		return -ENOTSUP;
	}
	ADD("%s", o->name);
	if (o->shm_id < 0) {
		ADD("--no-shconf");
		ADD("--file-prefix=spdk_pid%d", getpid());
	} else {
		ADD("--file-prefix=spdk%d", o->shm_id);
		ADD("--proc-type=auto");
	}
	if (o->reactor_mask != NULL && o->reactor_mask[0] == '[') {
		ADD("-l%.*s", (int)strcspn(o->reactor_mask + 1, "]"), o->reactor_mask + 1);
	} else {
		ADD("-c%s", o->reactor_mask != NULL ? o->reactor_mask : "0x1");
	}
	if (o->mem_channels > 0) {
		ADD("-n%d", o->mem_channels);
	}
	if (o->mem_size_mb >= 0) {
		ADD("-m%d", o->mem_size_mb);
	}
	if (o->main_core >= 0) {
		ADD("--m%s-lcore=%d", SPDK_VERSION >= SPDK_VERSION_NUM(21, 1, 0) ? "ain" : "aster", o->main_core);
	}
	if (o->no_pci) {
		ADD("--no-pci");
	}
	ADD("--log-level=lib.eal:6");
	ADD("--no-telemetry");
	ADD("--no-huge");
	ADD("--legacy-mem");
	ADD("--iova-mode=va");
	ADD("--base-virtaddr=0x%" PRIx64, o->base_virtaddr != 0 ? o->base_virtaddr : 0x200000000000);
#undef ADD
	if (o->env_context != NULL) {
		extra = strdup(o->env_context);
		argv[argc++] = extra;
	}
	argv[argc] = NULL;
	optind = 1;
	rc = rte_eal_init(argc, argv);
	optind = was;
	if (rc < 0) {
		return -EIO;
	}
	return spdk_env_dpdk_post_init(true);
}
#endif

int
spdkp_env_init(const struct spdkp_opts *o)
{
	struct spdk_env_opts opts;
	bool no_huge = o->no_huge;

	if (o->has_log_level) {
		spdk_log_set_print_level((enum spdk_log_level)o->log_level);
	}
#if SPDK_VERSION < SPDK_VERSION_NUM(21, 10, 0)
	if (no_huge) {
		return init_without_hugepages(o);
	}
#endif
	memset(&opts, 0, sizeof(opts));
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 9, 0)
	opts.opts_size = sizeof(opts);
#endif
	spdk_env_opts_init(&opts);
	opts.name = o->name;
	if (o->reactor_mask != NULL) {
		opts.core_mask = o->reactor_mask;
	}
	opts.shm_id = o->shm_id;
	opts.mem_channel = o->mem_channels;
	opts.mem_size = o->mem_size_mb;
	opts.no_pci = o->no_pci;
	opts.hugepage_single_segments = o->single_segments;
	opts.unlink_hugepage = spdkp_unlink(o, o->shm_id, no_huge);
	opts.hugedir = o->huge_dir;
	opts.iova_mode = o->iova_mode;
	opts.env_context = (void *)(uintptr_t)o->env_context;
	if (o->base_virtaddr != 0) {
		opts.base_virtaddr = o->base_virtaddr;
	}
	opts.num_pci_addr = o->num_pci_addrs;
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 1, 0)
	opts.main_core = o->main_core;
	opts.pci_allowed = o->pci_blocked ? NULL : o->pci_addrs;
	opts.pci_blocked = o->pci_blocked ? o->pci_addrs : NULL;
#else
	opts.master_core = o->main_core;
	opts.pci_whitelist = o->pci_blocked ? NULL : o->pci_addrs;
	opts.pci_blacklist = o->pci_blocked ? o->pci_addrs : NULL;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 1, 0)
	opts.no_huge = no_huge;
#elif SPDK_VERSION >= SPDK_VERSION_NUM(21, 10, 0)
	if (no_huge) {
		static char args[1024];

		snprintf(args, sizeof(args), "--no-huge --legacy-mem %s",
			 o->env_context != NULL ? o->env_context : "");
		opts.env_context = args;
		opts.iova_mode = "va";
	}
#endif
	return spdk_env_init(&opts);
}

void
spdkp_env_fini(void)
{
	spdk_env_fini();
}
