#include "spdkp.h"
#include "spdk/event.h"

/* Nothing but an application uses these: in a plugin they stay unresolved without harm. */
#pragma weak spdk_app_opts_init
#pragma weak spdk_app_parse_args
#pragma weak spdk_app_start
#pragma weak spdk_app_fini

#pragma weak spdk_app_stop
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

static void
started(void *ctx)
{
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

int
spdkp_app_main(int argc, char **argv, const char *name)
{
	struct spdk_app_opts opts;
	int rc;

#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 1, 0)
	spdk_app_opts_init(&opts, sizeof(opts));
#else
	spdk_app_opts_init(&opts);
#endif
	opts.name = name;
	rc = spdk_app_parse_args(argc, argv, &opts, "", NULL, no_option, no_usage);
	if (rc != SPDK_APP_PARSE_ARGS_SUCCESS) {
		return rc == SPDK_APP_PARSE_ARGS_HELP ? 0 : 1;
	}
	rc = spdk_app_start(&opts, started, NULL);
	spdk_app_fini();
	return rc == 0 ? 0 : 1;
}
