/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the parts of the nbdkit plugin promise each other. */

#ifndef SERVER_PLUGIN_H
#define SERVER_PLUGIN_H

#include <stdbool.h>

#include "qed.h"

/* ---- plugin-config.c: the parameters ----------------------------------- */

struct plugin_config {
  struct qed_options options;   /* 'path' is absolute: nbdkit changes its
                                 * directory before it serves; NULL with dir= */
  const char *name;             /* the path's last component: the export */
  const char *directory;        /* dir=: absolute, without symlinks; or NULL */
};

/* Filled in while nbdkit reads its command line, constant afterwards. */
extern struct plugin_config plugin_config;

extern const char plugin_config_help[];

void plugin_config_load (void);
void plugin_config_unload (void);
int plugin_config_parse (const char *key, const char *value);
int plugin_config_complete (void);

/* ---- plugin-readonly.c ------------------------------------------------- */

/* Whether nbdkit was started with -r.  To be called in .get_ready. */
bool plugin_readonly (void);

/* ---- plugin-quit.c ----------------------------------------------------- */

/* From .after_fork to .cleanup: clients are disconnected when nbdkit is told
 * to end.  plugin_quit_start returns 0, or -1 with the reason logged.
 */
int plugin_quit_start (void);
void plugin_quit_stop (void);

#endif /* SERVER_PLUGIN_H */
