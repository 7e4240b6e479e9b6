#include "spdkp.h"

#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
#pragma weak spdk_thread_get_app_thread

struct spdk_thread *
spdkp_app_thread(void)
{
	return spdk_thread_get_app_thread();
}

void
spdkp_note_app_thread(void)
{
}
#else
static struct spdk_thread *g_app_thread;

struct spdk_thread *
spdkp_app_thread(void)
{
	return __atomic_load_n(&g_app_thread, __ATOMIC_ACQUIRE);
}

void
spdkp_note_app_thread(void)
{
	__atomic_store_n(&g_app_thread, spdk_get_thread(), __ATOMIC_RELEASE);
}
#endif

bool
spdkp_on_app_thread(void)
{
	struct spdk_thread *thread = spdk_get_thread();

	return thread != NULL && thread == spdkp_app_thread();
}
