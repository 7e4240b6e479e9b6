#include "spdkp.h"

#if SPDK_VERSION >= SPDK_VERSION_NUM(24, 5, 0)
#include "spdk/keyring.h"

#pragma weak spdk_keyring_get_key
#pragma weak spdk_keyring_put_key
#pragma weak spdk_key_get_key

int
spdkp_keyring_read(const char *name, void *buf, int len, const char **needs)
{
	struct spdk_key *key;
	int rc;

	*needs = NULL;
	/* A program need not have the library. */
	if (spdk_keyring_get_key == NULL || spdk_keyring_put_key == NULL || spdk_key_get_key == NULL) {
		return -ENOSYS;
	}
	key = spdk_keyring_get_key(name);
	if (key == NULL) {
		return -ENOKEY;
	}
	rc = spdk_key_get_key(key, buf, len);
	spdk_keyring_put_key(key);
	return rc;
}
#else
int
spdkp_keyring_read(const char *name, void *buf, int len, const char **needs)
{
	*needs = "24.05";
	return -ENOTSUP;
}
#endif
