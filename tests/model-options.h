/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The command line of model-test. */

#ifndef MODEL_OPTIONS_H
#define MODEL_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

struct model_options {
  const char *uri, *load, *save, *initial, *dump;
  uint64_t size, seed, ops, seconds, connections, depth;
  uint64_t cluster_size, table_size, max_count;
  bool zero, trim, status, cache, verify_only, crash, may_die;
};

extern struct model_options options;

/* Fill in 'options'; exits with status 2 if they make no sense. */
void model_options_parse (int argc, char **argv);

#endif /* MODEL_OPTIONS_H */
