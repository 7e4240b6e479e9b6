#include "spdkp.h"

#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 7, 0)
#include "spdk/init.h"
#else
/* The header of these was not installed. */
typedef void (*spdk_subsystem_init_fn)(int rc, void *ctx);
void spdk_subsystem_init(spdk_subsystem_init_fn cb_fn, void *cb_arg);
void spdk_subsystem_fini(spdk_msg_fn cb_fn, void *cb_arg);
void spdk_app_json_config_load(const char *json_config_file, const char *rpc_addr,
			       spdk_subsystem_init_fn cb_fn, void *cb_arg, bool stop_on_error);
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 4, 0)
int spdk_rpc_initialize(const char *listen_addr);
#else
void spdk_rpc_initialize(const char *listen_addr);
#endif
void spdk_rpc_finish(void);
#pragma weak spdk_app_json_config_load
#endif

/* Programs without the app framework may lack these. */
#pragma weak spdk_subsystem_init
#pragma weak spdk_subsystem_fini
#pragma weak spdk_rpc_initialize
#pragma weak spdk_rpc_finish
#pragma weak spdk_rpc_set_state
#pragma weak spdk_rpc_verify_methods
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0)
#pragma weak spdk_subsystem_load_config
#elif SPDK_VERSION >= SPDK_VERSION_NUM(21, 7, 0)
#pragma weak spdk_subsystem_init_from_json_config
#endif

/* One start a process. */
static struct {
	void *json;
	size_t len;
	bool stop_on_error;
	void (*done)(int rc, void *ctx);
	void *ctx;
} g_start;

static void
started(int rc, void *ctx)
{
	free(g_start.json);
	g_start.json = NULL;
	if (rc == 0) {
		spdk_rpc_set_state(SPDK_RPC_RUNTIME);
	}
	g_start.done(rc < 0 ? rc : rc == 0 ? 0 : -EIO, g_start.ctx);
}

#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0)
static void
subsystems_up(int rc, void *ctx)
{
	if (rc != 0 || g_start.json == NULL) {
		started(rc, NULL);
		return;
	}
	spdk_rpc_set_state(SPDK_RPC_RUNTIME);
	spdk_subsystem_load_config(g_start.json, g_start.len, started, NULL, g_start.stop_on_error);
}

static void
startup_calls_made(int rc, void *ctx)
{
	if (rc != 0) {
		started(rc, NULL);
		return;
	}
	spdk_subsystem_init(subsystems_up, NULL);
}
#endif

void
spdkp_subsystems_start(const void *json, size_t len, const char *file, const char *rpc_addr,
		       bool stop_on_error, void (*done)(int rc, void *ctx), void *ctx)
{
	g_start.done = done;
	g_start.ctx = ctx;
	g_start.stop_on_error = stop_on_error;
	if (spdk_subsystem_init == NULL) {
		done(-ENOSYS, ctx);
		return;
	}
	if (!spdk_rpc_verify_methods()) {
		/* 20.07 would stop an app that there is not. */
		done(-EEXIST, ctx);
		return;
	}
#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0)
	(void)file;
	(void)rpc_addr;
	spdk_rpc_set_state(SPDK_RPC_STARTUP);
	if (json != NULL) {
		/* Read twice, and the second time after the caller's has gone. */
		g_start.json = malloc(len + 1);
		if (g_start.json == NULL) {
			done(-ENOMEM, ctx);
			return;
		}
		memcpy(g_start.json, json, len);
		g_start.len = len;
		spdk_subsystem_load_config(g_start.json, len, startup_calls_made, NULL, stop_on_error);
		return;
	}
	spdk_subsystem_init(subsystems_up, NULL);
#else
	(void)json;
	(void)len;
	if (file != NULL) {
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 7, 0)
		spdk_subsystem_init_from_json_config(file, rpc_addr, started, NULL, stop_on_error);
#else
		spdk_app_json_config_load(file, rpc_addr, started, NULL, stop_on_error);
#endif
		return;
	}
	spdk_subsystem_init(started, NULL);
#endif
}

void
spdkp_subsystems_stop(void (*done)(void *ctx), void *ctx)
{
	spdk_subsystem_fini(done, ctx);
}

int
spdkp_rpc_start(const char *addr)
{
	int rc = 0;

#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 9, 0)
	rc = spdk_rpc_initialize(addr, NULL);
#elif SPDK_VERSION >= SPDK_VERSION_NUM(21, 4, 0)
	rc = spdk_rpc_initialize(addr);
#else
	/* It says nothing, so look for the socket. */
	spdk_rpc_initialize(addr);
	if (addr[0] == '/' && access(addr, F_OK) != 0) {
		rc = -EADDRNOTAVAIL;
	}
#endif
	/* It starts over in the state before subsystems. */
	spdk_rpc_set_state(SPDK_RPC_RUNTIME);
	return rc;
}

void
spdkp_rpc_stop(void)
{
	spdk_rpc_finish();
}
