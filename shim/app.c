#include "spdkp.h"
#include "spdk/event.h"

/* Nothing but an application uses these: in a plugin they stay unresolved without harm. */
#pragma weak spdk_app_opts_init
#pragma weak spdk_app_parse_args
#pragma weak spdk_app_start
#pragma weak spdk_app_fini

#pragma weak spdk_app_stop
#pragma weak spdk_app_start_shutdown
#pragma weak spdk_rpc_get_state

bool
spdkp_failed_start_lives_on(void)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(25, 9, 0)
	return false;
#else
	/* Without `--wait-for-rpc` the state is not STARTUP yet, and the app framework stops by itself. */
	return spdk_app_stop != NULL && spdk_rpc_get_state() == SPDK_RPC_STARTUP;
#endif
}

void
spdkp_app_stop(int rc)
{
	spdk_app_stop(rc);
}

static int
no_option(int ch, char *arg)
{
	return -EINVAL;
}

static void
no_usage(void)
{
}

const char *
spdkp_app_lacks(const struct spdkp_opts *o, const char **what)
{
#if SPDK_VERSION < SPDK_VERSION_NUM(21, 10, 0)
	/* Its environment takes one argument for DPDK, and this needs two. */
	if (o->no_huge) {
		*what = "an app without hugepages";
		return "21.10";
	}
#endif
#if SPDK_VERSION < SPDK_VERSION_NUM(24, 1, 0)
	if (o->interrupt_mode) {
		*what = "an app's interrupt mode";
		return "24.01";
	}
#endif
#if SPDK_VERSION < SPDK_VERSION_NUM(21, 10, 0)
	if (o->no_signal_handlers) {
		*what = "an app without signal handlers";
		return "21.10";
	}
#endif
	return NULL;
}

static void
apply(struct spdk_app_opts *opts, const struct spdkp_opts *o)
{
	opts->name = o->name;
	opts->json_config_file = o->json_file;
	opts->json_config_ignore_errors = o->ignore_json_errors;
	if (o->rpc_addr != NULL || o->no_rpc) {
		opts->rpc_addr = o->rpc_addr;
	}
	opts->reactor_mask = o->reactor_mask;
	opts->shm_id = o->shm_id;
	opts->enable_coredump = !o->no_coredump;
	opts->mem_channel = o->mem_channels;
	opts->mem_size = o->mem_size_mb;
	opts->no_pci = o->no_pci;
	opts->hugepage_single_segments = o->single_segments;
	opts->hugedir = o->huge_dir;
	opts->iova_mode = o->iova_mode;
	opts->env_context = (void *)(uintptr_t)o->env_context;
	opts->delay_subsystem_init = o->wait_for_rpc;
	if (o->has_log_level) {
		opts->print_level = (enum spdk_log_level)o->log_level;
	}
	if (o->has_trace_entries) {
		opts->num_entries = o->trace_entries;
	}
	if (o->base_virtaddr != 0) {
		opts->base_virtaddr = o->base_virtaddr;
	}
	opts->num_pci_addr = o->num_pci_addrs;
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 1, 0)
	opts->main_core = o->main_core;
	opts->pci_allowed = o->pci_blocked ? NULL : o->pci_addrs;
	opts->pci_blocked = o->pci_blocked ? o->pci_addrs : NULL;
#else
	opts->master_core = o->main_core;
	opts->pci_whitelist = o->pci_blocked ? NULL : o->pci_addrs;
	opts->pci_blacklist = o->pci_blocked ? o->pci_addrs : NULL;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 10, 0)
	opts->disable_signal_handlers = o->no_signal_handlers;
#endif
#if SPDK_VERSION < SPDK_VERSION_NUM(24, 1, 0)
	if (o->no_huge) {
		static char args[1024];

		/* SPDK keeps the pointer. */
		snprintf(args, sizeof(args), "--no-huge --legacy-mem %s",
			 o->env_context != NULL ? o->env_context : "");
		opts->env_context = args;
		opts->iova_mode = "va";
	}
#else
	opts->no_huge = o->no_huge;
	opts->interrupt_mode = o->interrupt_mode;
#endif
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 9, 0)
	opts->disable_cpumask_locks = o->no_core_locks;
#endif
}

uint32_t
spdkp_app_run(const struct spdkp_opts *o, int argc, char **argv, void (*start)(void *),
	      void (*shutdown)(void), void *ctx, int *rc)
{
	struct spdk_app_opts opts;
	char locks[] = "--disable-cpumask-locks", *own[] = { (char *)(uintptr_t)o->name, NULL, NULL };
	bool no_huge = o->no_huge;
	int parsed;

#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 1, 0)
	spdk_app_opts_init(&opts, sizeof(opts));
#else
	spdk_app_opts_init(&opts);
#endif
	apply(&opts, o);
	opts.shutdown_cb = shutdown;
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0) && SPDK_VERSION < SPDK_VERSION_NUM(24, 9, 0)
	/* The option came before the field. */
	if (o->no_core_locks && argc == 0) {
		own[1] = locks;
		argv = own;
		argc = 2;
	}
#else
	(void)locks;
	(void)own;
#endif
	if (argc > 0) {
		parsed = spdk_app_parse_args(argc, argv, &opts, "", NULL, no_option, no_usage);
		if (parsed != SPDK_APP_PARSE_ARGS_SUCCESS) {
			return parsed == SPDK_APP_PARSE_ARGS_HELP ? SPDKP_APP_HELP : SPDKP_APP_USAGE;
		}
	}
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 1, 0)
	no_huge = opts.no_huge;
#endif
	if (opts.unlink_hugepage == false) {
		opts.unlink_hugepage = spdkp_unlink(o, opts.shm_id, no_huge);
	}
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0)
	if (o->json != NULL && opts.json_config_file == NULL) {
		opts.json_data = (void *)(uintptr_t)o->json;
		opts.json_data_size = o->json_len;
	}
#endif
	*rc = spdk_app_start(&opts, start, ctx);
	return SPDKP_APP_RAN;
}

void
spdkp_app_fini(void)
{
	spdk_app_fini();
}

bool
spdkp_app_json_in_memory(void)
{
	return SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0);
}

bool
spdkp_has_app(void)
{
	return spdk_app_start != NULL;
}

static struct spdk_bdev_module g_end;

static int
end_init(void)
{
	return 0;
}

void
spdkp_app_on_end(void (*ended)(void))
{
	/* The bdev layer stops its modules when all bdevs have gone and every descriptor is closed. */
	g_end.name = "spdk_plugin_app";
	g_end.module_init = end_init;
	g_end.module_fini = ended;
	spdk_bdev_module_list_add(&g_end);
}
