#include "spdkp.h"

int
spdkp_json_write_raw(struct spdk_json_write_ctx *w, const char *text, size_t len)
{
	return spdk_json_write_val_raw(w, text, len);
}

int
spdkp_json_write_name(struct spdk_json_write_ctx *w, const char *name, size_t len)
{
	return spdk_json_write_name_raw(w, name, len);
}
