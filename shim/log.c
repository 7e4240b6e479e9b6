#include "spdkp.h"
#include "spdk/log.h"

void
spdkp_log(int level, const char *file, int line, const char *func, const char *message)
{
	spdk_log(level, file, line, func, "%s\n", message);
}
