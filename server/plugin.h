/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the parts of the nbdkit plugin promise each other. */

#ifndef SERVER_PLUGIN_H
#define SERVER_PLUGIN_H

#include <stdbool.h>
#include <sys/types.h>

#include "qed.h"

/* ---- plugin-config.c: the parameters ----------------------------------- */

enum control_export {
  CONTROL_EXPORT_OFF,
  CONTROL_EXPORT_CHECK,         /* look, and check without repair */
  CONTROL_EXPORT_ADMIN,         /* everything, over TLS or a Unix socket */
};

struct plugin_config {
  struct qed_options options;   /* 'path' is absolute: nbdkit changes its
                                 * directory before it serves; NULL with dir= */
  const char *name;             /* the path's last component: the export */
  const char *directory;        /* dir=: absolute, without symlinks; or NULL */
  const char *control;          /* the admin socket: absolute; or NULL */
  enum control_export control_export;
  bool standby;                 /* wait until another server lets go */
  unsigned standby_timeout;     /* seconds that a client waits for that */
  bool fail_released;           /* what comes to a released image fails; else
                                 * it waits */
};

#define STANDBY_TIMEOUT_DEFAULT 60

/* Filled in while nbdkit reads its command line, constant afterwards. */
extern struct plugin_config plugin_config;

extern const char plugin_config_help[];

void plugin_config_load (void);
void plugin_config_unload (void);
int plugin_config_parse (const char *key, const char *value);
int plugin_config_complete (void);

/* ---- plugin-request.c -------------------------------------------------- */

struct client;
struct qed_slot;

/* Carry a request out on the image in the slot, which was entered.  Returns
 * what qed_request_run does when it has ended; -ESHUTDOWN if the client or the
 * server gave up; PLUGIN_AGAIN if the image is to be released: leave the slot,
 * and start over when it is active again.
 */
#define PLUGIN_AGAIN 1
int plugin_run_request (struct qed_slot *slot, struct qed_request *request);

/* Carry a request of a client out.  Returns what nbdkit wants: 0, or -1 with
 * its error set and one line logged.
 */
int plugin_carry_out (struct client *client, struct qed_request *request);

/* ---- plugin-readonly.c ------------------------------------------------- */

/* To be called in .get_ready: whether nbdkit was started with -r; whether it
 * was with -u, and which user that is.
 */
bool plugin_readonly (void);
bool plugin_user (uid_t *user);

/* ---- plugin-quit.c ----------------------------------------------------- */

/* From .after_fork to .cleanup: clients are disconnected when nbdkit is told
 * to end.  plugin_quit_start returns 0, or -1 with the reason logged.
 */
int plugin_quit_start (void);
void plugin_quit_stop (void);

/* If nbdkit was told to end: no client is sent anything any more.  To be
 * called by who would have to send an error for a request that another server
 * can carry out: a client that loses its connection asks there.  Returns
 * whether it was.
 */
bool plugin_quit_hang_up (void);

#endif /* SERVER_PLUGIN_H */
