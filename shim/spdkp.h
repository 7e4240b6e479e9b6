/* The C layer between SPDK and Rust: everything whose layout, signature or name differs between the
 * supported releases (20.07 to 26.09) is hidden behind spdkp_* functions of one stable signature.
 *
 * A function that only some releases have is declared weak where it is used. A plugin that was built
 * against another release must still load, so that its constructor can say so in one line. */
#ifndef SPDKP_H
#define SPDKP_H

#include "spdk/stdinc.h"
#include "spdk/bdev.h"
#include "spdk/bdev_module.h"
#include "spdk/json.h"
#include "spdk/jsonrpc.h"
#include "spdk/rpc.h"
#include "spdk/thread.h"
#include "spdk/version.h"

#include "layout.h"
#include "control.h"
#include "desc.h"
#include "info.h"
#include "client.h"

/* log.c */
void spdkp_log(int level, const char *file, int line, const char *func, const char *message);

/* thread.c */
bool spdkp_on_app_thread(void);
struct spdk_thread *spdkp_app_thread(void);
/* Releases before 23.01 do not know their app thread: whoever runs on it first says so here. */
void spdkp_note_app_thread(void);
/* Whether spdk_thread_exit() was called for the current thread. False where that cannot be told, before 23.01. */
bool spdkp_thread_is_exiting(void);
/* Calls `changed` when the poller's thread enters or leaves interrupt mode. False where there is no such mode. */
bool spdkp_poller_on_interrupt(struct spdk_poller *poller,
			       void (*changed)(struct spdk_poller *, void *, bool), void *ctx);
void spdkp_set_app_thread(struct spdk_thread *thread);
/* messages: 0 for SPDK's default; -ENOTSUP where their number cannot be chosen. `made` gets each thread that is
 * created, by whomever. */
int spdkp_thread_lib_init(size_t messages, void (*made)(struct spdk_thread *thread));
bool spdkp_thread_is_running(struct spdk_thread *thread);

/* json.c */
int spdkp_json_write_raw(struct spdk_json_write_ctx *w, const char *text, size_t len);
int spdkp_json_write_name(struct spdk_json_write_ctx *w, const char *name, size_t len);

/* rpc.c: further JSON-RPC servers of this process, polled on the app thread. */
bool spdkp_rpc_can_serve(void);
void *spdkp_rpc_serve(const char *path);
void spdkp_rpc_serve_poll(void *server);
void spdkp_rpc_serve_end(void *server);

/* module.c */
struct spdkp_module_ops {
	int (*init)(void);
	/* The bdev layer begins to unregister its bdevs. */
	void (*fini_start)(void);
	void (*fini)(void);
	int (*ctx_size)(void);
	int (*destruct)(void *ctx);
	void (*submit_request)(struct spdk_io_channel *ch, struct spdk_bdev_io *io);
	bool (*io_type_supported)(void *ctx, enum spdk_bdev_io_type type);
	int (*dump_info)(void *ctx, struct spdk_json_write_ctx *w);
	void (*write_config)(void *ctx, struct spdk_json_write_ctx *w);
	/* Of modules of virtual bdevs: writes the configuration of all of them, which may wait for their bases. */
	int (*write_module_config)(struct spdk_json_write_ctx *w);
	/* A bdev has come: the first must be done with it when it returns, the second says so by
	 * spdkp_examine_done(). */
	void (*examine_config)(struct spdk_bdev *bdev);
	void (*examine_disk)(struct spdk_bdev *bdev);
	/* The bdev whose memory domains requests may bring, or NULL. The same function for all modules. Used from
	 * 23.05 on. */
	struct spdk_bdev *(*domains_of)(void *ctx);
	/* Whether the function of that name goes on after it has returned, until it says so by the one below. Before
	 * 21.10 nobody waits for fini_start. */
	bool init_waits;
	bool fini_start_waits;
	bool fini_waits;
};
struct spdkp_module;
void spdkp_module_init_done(struct spdkp_module *module);
void spdkp_module_fini_start_done(void);
void spdkp_module_fini_done(void);
void spdkp_examine_done(struct spdkp_module *module);
struct spdkp_module *spdkp_module_add(const char *name, const struct spdkp_module_ops *ops);
/* The file that holds the module of this name, "" when it cannot be told, NULL when there is none. */
const char *spdkp_module_origin(const char *name);

/* bdev.c: what a module says of a bdev. Zero means "not said" everywhere but in block_size and num_blocks. */
struct spdkp_bdev_opts {
	const char *name;
	const char *product_name;
	uint8_t uuid[16];
	uint64_t num_blocks;
	uint32_t block_size;
	uint32_t physical_block_size;
	uint32_t write_unit_size;
	uint32_t optimal_io_boundary;
	uint32_t md_len;
	uint32_t dif_type;
	uint32_t dif_check_flags;
	uint32_t dif_pi_format;
	uint32_t max_rw_size;
	uint32_t max_unmap;
	uint32_t max_unmap_segments;
	uint32_t max_write_zeroes;
	uint32_t max_copy;
	uint32_t max_segment_size;
	uint32_t max_num_segments;
	uint32_t preferred_write_alignment;
	uint32_t preferred_write_granularity;
	uint32_t optimal_write_size;
	uint32_t preferred_unmap_alignment;
	uint32_t preferred_unmap_granularity;
	uint16_t acwu;
	uint8_t alignment_log2;
	bool write_cache;
	bool split_on_optimal_io_boundary;
	bool split_on_write_unit;
	bool md_interleave;
	bool dif_is_head_of_md;
};
/* Returns NULL when memory is short, or sets *needs to the first release that has what was asked. */
struct spdk_bdev *spdkp_bdev_new(struct spdkp_module *module, const struct spdkp_bdev_opts *opts,
				 void *ctx, const char **needs);
void spdkp_bdev_free(struct spdk_bdev *bdev);
/* Whether the bdev is the one of this name, alias or UUID. */
bool spdkp_bdev_answers_to(struct spdk_bdev *bdev, const char *name);
int spdkp_bdev_register(struct spdk_bdev *bdev);
void spdkp_bdev_uuid(const struct spdk_bdev *bdev, uint8_t out[16]);
bool spdkp_bdev_uuid_taken(const uint8_t uuid[16]);
bool spdkp_bdev_is_of(const struct spdk_bdev *bdev, const struct spdkp_module *module);
const char *spdkp_bdev_module_name(const struct spdk_bdev *bdev);
/* Only 26.x frees the aliases of a bdev that goes. */
void spdkp_bdev_forget_aliases(struct spdk_bdev *bdev);
void *spdkp_bdev_ctx(const struct spdk_bdev *bdev);

/* io.c: the parts of a request that are not read on every I/O. */
enum {
	SPDKP_ZCOPY_START = 1,
	SPDKP_ZCOPY_POPULATE = 2,
	SPDKP_ZCOPY_COMMIT = 4,
};
uint32_t spdkp_io_zcopy_flags(const struct spdk_bdev_io *io);
/* Of a request with data. */
bool spdkp_io_in_domain(const struct spdk_bdev_io *io);
uint64_t spdkp_io_copy_source(const struct spdk_bdev_io *io);
struct spdkp_nvme {
	const void *cmd;
	void *buf;
	size_t len;
	void *md_buf;
	size_t md_len;
};
void spdkp_io_nvme(const struct spdk_bdev_io *io, struct spdkp_nvme *out);
void spdkp_io_complete_errno(struct spdk_bdev_io *io, int err);

/* keyring.c */
/* Copies the key into the buffer and gives its length, or a negative errno: -ENOKEY when there is no such key,
 * -ENOSYS when the program has no keyring. */
int spdkp_keyring_read(const char *name, void *buf, int len, const char **needs);

/* dif.c */
int spdkp_dif_generate(struct spdk_bdev_io *io);
/* 0, or a negative errno; on a mismatch *bad_block is its index in the request. */
int spdkp_dif_verify(struct spdk_bdev_io *io, uint32_t *bad_block);

/* subsystem.c */
struct spdkp_subsystem_ops {
	void (*init)(void);
	void (*fini)(void);
	void (*write_config)(struct spdk_json_write_ctx *w);
};
int spdkp_subsystem_add(const char *name, const struct spdkp_subsystem_ops *ops);
int spdkp_subsystem_depend(const char *name, const char *depends_on);
void spdkp_subsystem_init_next(int rc);
void spdkp_subsystem_fini_next(void);

/* env.c */
/* NULL and -1 mean "not said". */
struct spdkp_opts {
	const char *name;
	const char *json_file;
	const void *json;
	size_t json_len;
	const char *rpc_addr;
	const char *reactor_mask;
	const char *huge_dir;
	const char *iova_mode;
	const char *env_context;
	struct spdk_pci_addr *pci_addrs;
	size_t num_pci_addrs;
	uint64_t base_virtaddr;
	uint64_t trace_entries;
	int shm_id;
	int mem_size_mb;
	int mem_channels;
	int main_core;
	int log_level;
	int unlink_hugepages;
	bool has_log_level;
	bool has_trace_entries;
	bool pci_blocked;
	bool ignore_json_errors;
	bool no_rpc;
	bool no_pci;
	bool no_huge;
	bool single_segments;
	bool wait_for_rpc;
	bool no_coredump;
	bool no_signal_handlers;
	bool no_core_locks;
	bool interrupt_mode;
};
/* Once a process. */
int spdkp_env_init(const struct spdkp_opts *o);
void spdkp_env_fini(void);
/* Whether the files of hugepages are to go at once. */
bool spdkp_unlink(const struct spdkp_opts *o, int shm_id, bool no_huge);

/* init.c: subsystems and the RPC server without the app framework, on the app thread. */
/* Starts all subsystems and runs a configuration: the text, or where spdkp_app_json_in_memory() says no,
 * the file. `done` gets 0 or a negative errno. Before 24.05 a socket beside rpc_addr serves for it. */
void spdkp_subsystems_start(const void *json, size_t len, const char *file, const char *rpc_addr,
			    bool stop_on_error, void (*done)(int rc, void *ctx), void *ctx);
void spdkp_subsystems_stop(void (*done)(void *ctx), void *ctx);
int spdkp_rpc_start(const char *addr);
void spdkp_rpc_stop(void);

/* app.c */
/* Whether a program that was told to wait for RPCs survives a subsystem that does not start. */
bool spdkp_failed_start_lives_on(void);
void spdkp_app_stop(int rc);
enum {
	SPDKP_APP_RAN,
	SPDKP_APP_HELP,
	SPDKP_APP_USAGE,
};
/* Whether the program has SPDK's app framework. */
bool spdkp_has_app(void);
bool spdkp_app_json_in_memory(void);
/* The first release that has all that is asked for, when this one lacks *what; NULL when it does not. */
const char *spdkp_app_lacks(const struct spdkp_opts *o, const char **what);
/* Runs the app to its end. With argc > 0 the command line goes over the options. RAN: *rc is what
 * spdk_app_start returned, and spdkp_app_fini is due. The PCI addresses come from malloc; they are freed. */
uint32_t spdkp_app_run(const struct spdkp_opts *o, int argc, char **argv, void (*start)(void *),
		       void (*shutdown)(void), void *ctx, int *rc);
void spdkp_app_fini(void);
/* Has `ended` called once, when the bdev layer has ended. Before the app starts. */
void spdkp_app_on_end(void (*ended)(void));

#endif
