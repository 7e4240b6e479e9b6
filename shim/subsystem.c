#include "spdkp.h"

/* The header of these was not installed before 26.05. The structs changed once: 20.07 still had a
 * writer of the old text configuration. */
#if SPDK_VERSION >= SPDK_VERSION_NUM(26, 5, 0)
#include "spdk/init.h"
#else
struct spdk_subsystem {
	const char *name;
	void (*init)(void);
	void (*fini)(void);
#if SPDK_VERSION < SPDK_VERSION_NUM(20, 10, 0)
	void (*config)(FILE *fp);
#endif
	void (*write_config_json)(struct spdk_json_write_ctx *w);
	TAILQ_ENTRY(spdk_subsystem) tailq;
};

struct spdk_subsystem_depend {
	const char *name;
	const char *depends_on;
	TAILQ_ENTRY(spdk_subsystem_depend) tailq;
};

void spdk_add_subsystem(struct spdk_subsystem *subsystem);
void spdk_add_subsystem_depend(struct spdk_subsystem_depend *depend);
void spdk_subsystem_init_next(int rc);
void spdk_subsystem_fini_next(void);
#endif

/* SPDK keeps both structs for as long as the process lives. */
int
spdkp_subsystem_add(const char *name, const struct spdkp_subsystem_ops *ops)
{
	struct spdk_subsystem *subsystem = calloc(1, sizeof(*subsystem));

	if (subsystem == NULL) {
		return -ENOMEM;
	}
	subsystem->name = name;
	subsystem->init = ops->init;
	subsystem->fini = ops->fini;
	subsystem->write_config_json = ops->write_config;
	spdk_add_subsystem(subsystem);
	return 0;
}

int
spdkp_subsystem_depend(const char *name, const char *depends_on)
{
	struct spdk_subsystem_depend *depend = calloc(1, sizeof(*depend));

	if (depend == NULL) {
		return -ENOMEM;
	}
	depend->name = name;
	depend->depends_on = depends_on;
	spdk_add_subsystem_depend(depend);
	return 0;
}

void
spdkp_subsystem_init_next(int rc)
{
	spdk_subsystem_init_next(rc);
}

void
spdkp_subsystem_fini_next(void)
{
	spdk_subsystem_fini_next();
}
