/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The memory that a pending log lies in, which outlives the engine when it is
 * killed, but not the machine.
 */

#ifndef CRASH_SIM_PENDING_H
#define CRASH_SIM_PENDING_H

/* The log that is there, or NULL; and a copy of it for later, or NULL. */
extern void *sim_pending;
void *sim_pending_copy (void);

/* What is there from now on: a copy of that, or nothing. */
void sim_pending_set (const void *log);

/* Which run of the machine it is. */
extern unsigned char sim_pending_boot;

/* Random bits of tokens are counted from here. */
void sim_pending_reset (void);

#endif /* CRASH_SIM_PENDING_H */
