#include "spdkp.h"

#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0)
#pragma weak spdk_rpc_server_listen
#pragma weak spdk_rpc_server_accept
#pragma weak spdk_rpc_server_close

bool
spdkp_rpc_can_serve(void)
{
	return spdk_rpc_server_listen != NULL;
}

void *
spdkp_rpc_serve(const char *path)
{
	return spdk_rpc_server_listen(path);
}

void
spdkp_rpc_serve_poll(void *server)
{
	spdk_rpc_server_accept(server);
}

void
spdkp_rpc_serve_end(void *server)
{
	spdk_rpc_server_close(server);
}
#else
bool
spdkp_rpc_can_serve(void)
{
	return false;
}

void *
spdkp_rpc_serve(const char *path)
{
	return NULL;
}

void
spdkp_rpc_serve_poll(void *server)
{
}

void
spdkp_rpc_serve_end(void *server)
{
}
#endif
