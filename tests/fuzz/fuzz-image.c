/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Images that are described (describe.h): the first byte says how many steps
 * the script has (life.h) that comes behind it, then the description.
 */

#include <config.h>

#include "describe.h"
#include "life.h"
#include "one-thread.h"

#define STEPS_MAX 16u

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct fuzz_input in = { data, data + size }, script;
  size_t n = LIFE_STEP * (fuzz_take (&in, 1) % (STEPS_MAX + 1));
  struct sparse disk;

  if (n > fuzz_left (&in))
    n = fuzz_left (&in);
  script = (struct fuzz_input) { in.at, in.at + n };
  in.at += n;
  one_thread_reset (size);
  sparse_init (&disk, 0);
  describe (&disk, &in);
  life_run (&disk, script, QED_PENDING_OFF);
  sparse_destroy (&disk);
  return 0;
}
