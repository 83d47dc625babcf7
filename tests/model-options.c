/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model-options.h"

struct model_options options = {
  .seed = 1, .ops = 2000, .connections = 1, .depth = 8,
  .cluster_size = 65536, .table_size = 4, .max_count = 4 << 20,
};

static uint64_t
parse_number (const char *s)
{
  static const char units[] = "KMGT";
  char *end;
  uint64_t n = strtoull (s, &end, 0);

  if (end != s && *end != '\0' && strchr (units, *end) != NULL)
    n <<= 10 * (strchr (units, *end++) - units + 1);
  if (end == s || *end != '\0') {
    fprintf (stderr, "model-test: %s: not a number\n", s);
    exit (2);
  }
  return n;
}

static void
usage (FILE *f)
{
  fprintf (f,
"usage: model-test [OPTIONS] URI\n"
"  --size N           what the export's size must be\n"
"  --seed N           of the workload (1)\n"
"  --ops N            number of operations (2000), or\n"
"  --seconds N        go on for so long\n"
"  --connections N    (1, at most 64)\n"
"  --depth N          requests in flight on each (8)\n"
"  --max-count N      largest request (4M)\n"
"  --cluster-size N   aim at its multiples (65536)\n"
"  --table-size N     aim at what an L2 table covers (4)\n"
"  --zero, --trim, --status, --cache\n"
"                     use these too, if the server can\n"
"  --may-die          it is no failure if the server goes away\n"
"  --initial FILE     what the disk holds at first, behind its end zeros\n"
"  --save FILE        keep the model\n"
"  --dump FILE        write the disk's content as it should be in the end\n"
"  --load FILE        begin with a kept model, not with a disk of zeros\n"
"  --verify-only      only read everything\n"
"  --crash            what wasn't flushed may be lost\n");
}

enum { NUMBER, STRING, FLAG };

void
model_options_parse (int argc, char **argv)
{
  static const struct { const char *name; int kind; void *value; } table[] = {
    { "size", NUMBER, &options.size }, { "seed", NUMBER, &options.seed },
    { "ops", NUMBER, &options.ops }, { "seconds", NUMBER, &options.seconds },
    { "connections", NUMBER, &options.connections },
    { "depth", NUMBER, &options.depth },
    { "max-count", NUMBER, &options.max_count },
    { "cluster-size", NUMBER, &options.cluster_size },
    { "table-size", NUMBER, &options.table_size },
    { "load", STRING, &options.load }, { "save", STRING, &options.save },
    { "initial", STRING, &options.initial },
    { "dump", STRING, &options.dump },
    { "zero", FLAG, &options.zero }, { "trim", FLAG, &options.trim },
    { "status", FLAG, &options.status }, { "cache", FLAG, &options.cache },
    { "verify-only", FLAG, &options.verify_only },
    { "crash", FLAG, &options.crash }, { "may-die", FLAG, &options.may_die },
    { "help", FLAG, NULL },
  };
  enum { N = sizeof table / sizeof table[0] };
  struct option longs[N + 1];
  int i, c;

  memset (longs, 0, sizeof longs);
  for (i = 0; i < N; i++) {
    longs[i].name = table[i].name;
    longs[i].has_arg = table[i].kind != FLAG;
  }
  while ((c = getopt_long (argc, argv, "", longs, &i)) == 0) {
    if (table[i].value == NULL) {
      usage (stdout);
      exit (0);
    }
    if (table[i].kind == NUMBER)
      *(uint64_t *) table[i].value = parse_number (optarg);
    else if (table[i].kind == STRING)
      *(const char **) table[i].value = optarg;
    else
      *(bool *) table[i].value = true;
  }
  if (c != -1 || optind + 1 != argc || options.connections < 1
      || options.connections > 64 || options.depth < 1
      || options.cluster_size < 4096 || options.table_size < 1
      || options.max_count < 1) {
    usage (stderr);
    exit (2);
  }
  options.uri = argv[optind];
}
