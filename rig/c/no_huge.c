/*
 * Rewrites the arguments with which SPDK starts DPDK's EAL. For the rig's own
 * SPDK processes only: SPDK before 24.01 has no switch that leaves hugepages
 * out, and before 21.07 none that puts several lcores on one CPU. Telemetry is
 * always off: without shared configuration, DPDK 20.05 binds its socket in "/",
 * where processes get in one another's way and only root may write.
 *
 *   SPDK_RIG_NO_HUGE=1     run in ordinary memory
 *   SPDK_RIG_LCORES=LIST   use --lcores=LIST in place of -c or -l
 *
 * The EAL parses its options with getopt_long(), which a program takes from
 * libc even when SPDK and DPDK are linked into it; rte_eal_init() could not be
 * interposed there. Calls with any other option table pass through untouched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*getopt_long_fn)(int, char *const[], const char *, const struct option *, int *);

static int g_eal_argc;
static char *const *g_eal_argv;
static int g_argc;
static char **g_argv;

static int
has_option(const struct option *opts, const char *name)
{
	for (; opts != NULL && opts->name != NULL; opts++) {
		if (strcmp(opts->name, name) == 0) {
			return 1;
		}
	}
	return 0;
}

static int
starts_with(const char *arg, const char *prefix)
{
	return strncmp(arg, prefix, strlen(prefix)) == 0;
}

static void
rewrite(int argc, char *const argv[], const struct option *opts)
{
	const char *no_huge = getenv("SPDK_RIG_NO_HUGE");
	const char *lcores = getenv("SPDK_RIG_LCORES");
	char **out;
	char *lcores_arg;
	int i, n = 0;

	/* Five arguments at the most are added; the list ends with NULL. */
	out = calloc(argc + 6, sizeof(*out));
	if (out == NULL) {
		abort();
	}
	for (i = 0; i < argc; i++) {
		if (no_huge != NULL && (strcmp(argv[i], "--match-allocations") == 0 ||
					strcmp(argv[i], "--huge-unlink") == 0 ||
					starts_with(argv[i], "--iova-mode"))) {
			continue;
		}
		/* SPDK joins these switches and their value in one argument. */
		if (lcores != NULL && i > 0 && (starts_with(argv[i], "-c") ||
						starts_with(argv[i], "-l") ||
						starts_with(argv[i], "--lcores"))) {
			continue;
		}
		out[n++] = argv[i];
	}
	if (has_option(opts, "no-telemetry")) {
		out[n++] = "--no-telemetry";
	}
	if (no_huge != NULL) {
		out[n++] = "--no-huge";
		out[n++] = "--legacy-mem";
		out[n++] = "--iova-mode=va";
	}
	if (lcores != NULL) {
		if (asprintf(&lcores_arg, "--lcores=%s", lcores) < 0) {
			abort();
		}
		out[n++] = lcores_arg;
	}

	/* One small list a process: the EAL parses the same one several times. */
	g_eal_argc = argc;
	g_eal_argv = argv;
	g_argc = n;
	g_argv = out;
}

int
getopt_long(int argc, char *const argv[], const char *shortopts, const struct option *longopts,
	    int *index)
{
	static getopt_long_fn real;
	int opt;

	if (real == NULL) {
		real = (getopt_long_fn)dlsym(RTLD_NEXT, "getopt_long");
		if (real == NULL) {
			abort();
		}
	}
	if (!has_option(longopts, "match-allocations")) {
		return real(argc, argv, shortopts, longopts, index);
	}
	if (g_eal_argv != argv || g_eal_argc != argc) {
		rewrite(argc, argv, longopts);
	}
	opt = real(g_argc, g_argv, shortopts, longopts, index);
	/* The EAL then writes to its own argv[optind - 1], which may be shorter than ours. */
	if (opt == -1 && optind > argc) {
		optind = argc;
	}
	return opt;
}
