/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The exports, and the open images behind them.
 *
 * With file= there is one, open from .get_ready to .cleanup.  With dir= each
 * image in the directory is one: it is opened for its first client and closed,
 * cleanly, some seconds after its last one has left, so that it can be handed
 * to other programs.  All clients of an image share one engine.
 *
 * What returns -1 or NULL has logged one line that says why.
 */

#ifndef SERVER_EXPORTS_H
#define SERVER_EXPORTS_H

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "qed.h"

/* Scripts and our own tools recognise exports of ours by it. */
#define EXPORT_DESCRIPTION QED_EXPORT_DESCRIPTION

struct export;

/* Before the fork: what is wrong with the image or the directory fails nbdkit
 * here, where an operator sees it.
 */
int exports_open (void);

/* After the fork, which no thread survives. */
int exports_start (void);

/* Close all.  There are no clients any more.  Also after a server that failed
 * to start; a second call does nothing.
 */
void exports_close (void);

/* For a client that asks for a list, or names none.  exports_default returns
 * NULL, without a message, if there is not just one.
 */
int exports_list (struct nbdkit_exports *list);
const char *exports_default (void);

/* A client comes and goes.  export_acquire may wait until another client's
 * open, or a close, is done.  On failure nbdkit's error is set.
 */
struct export *export_acquire (const char *name);
void export_release (struct export *export);

/* For as long as it is acquired. */
struct qed_image *export_image (const struct export *export);
const char *export_path (const struct export *export);

#endif /* SERVER_EXPORTS_H */
