/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The first backing file as a QED image: what is read through its tables is
 * what stamp.h says that the file holds.
 */

#ifndef CRASH_BENEATH_H
#define CRASH_BENEATH_H

#include "craft.h"

/* From here on the first file is that, of the shape's geometry; or raw, if an
 * image of that geometry can't be so large.  Sets stamp_backing.is_qed.
 */
void beneath_make (const struct shape *shape);

/* It is raw again. */
void beneath_drop (void);

#endif /* CRASH_BENEATH_H */
