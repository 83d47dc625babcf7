/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* nbdkit, as far as the plugin needs one around it: its messages are made and
 * dropped, its client is a local process.
 */

#ifndef FUZZ_NBDKIT_STUB_H
#define FUZZ_NBDKIT_STUB_H

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

/* The export that the next .open is for. */
extern const char *stub_export_name;

#endif /* FUZZ_NBDKIT_STUB_H */
