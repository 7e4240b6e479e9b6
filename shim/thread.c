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

void
spdkp_set_app_thread(struct spdk_thread *thread)
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
	spdkp_set_app_thread(spdk_get_thread());
}

void
spdkp_set_app_thread(struct spdk_thread *thread)
{
	__atomic_store_n(&g_app_thread, thread, __ATOMIC_RELEASE);
}
#endif

bool
spdkp_on_app_thread(void)
{
	struct spdk_thread *thread = spdk_get_thread();

	return thread != NULL && thread == spdkp_app_thread();
}

static void (*g_made)(struct spdk_thread *thread);

static int
on_new(struct spdk_thread *thread)
{
	g_made(thread);
	return 0;
}

#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 5, 0)
static int
on_op(struct spdk_thread *thread, enum spdk_thread_op op)
{
	return op == SPDK_THREAD_OP_NEW ? on_new(thread) : -ENOTSUP;
}

static bool
has_op(enum spdk_thread_op op)
{
	return op == SPDK_THREAD_OP_NEW;
}
#endif

int
spdkp_thread_lib_init(size_t messages, void (*made)(struct spdk_thread *thread))
{
	g_made = made;
	if (messages == 0) {
		return spdk_thread_lib_init(on_new, 0);
	}
#if SPDK_VERSION >= SPDK_VERSION_NUM(22, 5, 0)
	return spdk_thread_lib_init_ext(on_op, has_op, 0, messages);
#else
	return -ENOTSUP;
#endif
}

#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
#pragma weak spdk_thread_is_running
#endif

bool
spdkp_thread_is_exiting(void)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
	return !spdk_thread_is_running(spdk_get_thread());
#else
	return false;
#endif
}

#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 4, 0)
#pragma weak spdk_poller_register_interrupt
#endif

bool
spdkp_poller_on_interrupt(struct spdk_poller *poller,
			  void (*changed)(struct spdk_poller *, void *, bool), void *ctx)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(21, 4, 0)
	spdk_poller_register_interrupt(poller, changed, ctx);
	return true;
#else
	return false;
#endif
}

bool
spdkp_thread_is_running(struct spdk_thread *thread)
{
#if SPDK_VERSION >= SPDK_VERSION_NUM(23, 1, 0)
	return spdk_thread_is_running(thread);
#else
	return !spdk_thread_is_exited(thread);
#endif
}
