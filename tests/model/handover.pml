/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The hand-over of an image between servers (qed/handover.h, qed/lock.h), for
 * spin: every interleaving of SERVERS servers, each with a client, of another
 * program that opens the image once (QEMU), of kill -9, and of an administrator
 * who releases and activates as he likes.
 *
 * Claimed, at each step:
 *  - no two programs ever write to the file at once;
 *  - who writes tables back knows all that is in the file: nobody has changed
 *    it since he read it;
 *  - what was flushed is there for whoever takes over;
 *  - no request is carried out while NEED_CHECK is another's;
 *  - nobody waits forever without a reason (spin's check of end states).
 *
 * To see that the model can fail, each BREAK_... makes a mistake that one could
 * make in the code; spin must find each (test-model-handover.sh).
 *
 * Left out: other bytes of the lock than those of "write", as they are treated
 * alike; time, so that racers may lose for ever, which random pauses prevent.
 */

#ifndef SERVERS
#define SERVERS 2
#endif

/* How often each of these happens, all servers together. */
#ifndef REQUESTS
#define REQUESTS 2
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef COMMANDS
#define COMMANDS 2              /* release, activate, flush */
#endif

#define QEMU SERVERS            /* its number among those who lock */
#define ALL (SERVERS + 1)
#define NOBODY 255

mtype = { STANDBY, ACTIVATING, ACTIVE, RELEASING, RELEASED };
mtype state[SERVERS];

/* The file. */
byte disk;                      /* version of its tables */
byte marked = NOBODY;           /* who has set NEED_CHECK */
byte flushed;                   /* version that someone was promised */

/* The lock: the bytes 101 and 201, for each descriptor. */
bool locks[2 * ALL];
#define USES 0
#define UNSHARES ALL

/* In a server's memory. */
byte users[SERVERS];            /* requests that have entered the slot */
byte mem[SERVERS];              /* version of the tables */
byte base[SERVERS];             /* the one in the file, as far as it knows */

/* For the claims. */
byte writes[ALL];               /* how many of its threads write to the file */
bool killed[SERVERS];
byte requests, kills, commands;

inline write_begin (who)
{
  d_step {
    writes[who]++;
    other = 0;
    do
    :: other < ALL ->
       assert (other == who || writes[other] == 0);
       other++
    :: else -> break
    od;
    other = 0
  }
}

inline write_end (who)
{
  writes[who]--
}

/* What F_OFD_GETLK tells of a byte: whether nobody else holds it. */
inline test (byte_of, who, result)
{
  d_step {
    result = true;
    other = 0;
    do
    :: other < ALL ->
       if
       :: other != who && locks[byte_of + other] -> result = false
       :: else
       fi;
       other++
    :: else -> break
    od;
    other = 0
  }
}

/* As try_take of qed/lock.c.  QEMU doesn't test first. */
inline try_lock (who, test_first, got)
{
  got = true;
  if
  :: test_first ->
     test (UNSHARES, who, got);
     if :: got -> test (USES, who, got) :: else fi
  :: else
  fi;
  if
  :: got ->
     locks[USES + who] = true;
     locks[UNSHARES + who] = true;
#ifndef BREAK_NO_SECOND_TEST
     test (UNSHARES, who, got);
     if :: got -> test (USES, who, got) :: else fi;
#endif
     if
     :: !got -> locks[USES + who] = false; locks[UNSHARES + who] = false
     :: else
     fi
  :: else
  fi
}

inline unlock (who)
{
  locks[UNSHARES + who] = false;
  locks[USES + who] = false
}

/* ---- A server ---------------------------------------------------------- */

inline read_tables (me)
{
  atomic { mem[me] = disk; base[me] = disk }
}

inline write_back (me)
{
  write_begin (me);
  atomic {
    assert (disk == base[me]);
    disk = mem[me];
    base[me] = disk
  };
  write_end (me)
}

/* The lock, then the header and all tables, then the repair. */
inline activate (me, from)
{
  state[me] = ACTIVATING;
#ifdef BREAK_TRUST
  read_tables (me);
#endif
  try_lock (me, true, got);
  if
  :: got ->
#ifndef BREAK_TRUST
     read_tables (me);
#endif
     assert (mem[me] >= flushed);
#ifndef BREAK_NO_REPAIR
     if
     :: marked != NOBODY ->
        write_begin (me);
        marked = NOBODY;
        write_end (me)
     :: else
     fi;
#endif
     state[me] = ACTIVE
  :: else -> state[me] = from
  fi;
  got = false
}

inline release (me)
{
  state[me] = RELEASING;
#ifndef BREAK_NO_DRAIN
  (users[me] == 0);
#endif
#ifdef BREAK_EARLY_UNLOCK
  unlock (me);
#endif
  if
  :: mem[me] != base[me] -> write_back (me)
  :: else
  fi;
  if
  :: marked == me ->
     write_begin (me);
     marked = NOBODY;
     write_end (me)
  :: else
  fi;
  unlock (me);
  state[me] = RELEASED
}

/* A flush that was answered is a promise. */
inline flush (me)
{
  write_back (me);
  atomic {
    if
    :: mem[me] == base[me] && base[me] > flushed -> flushed = base[me]
    :: else
    fi
  }
}

/* One that was killed may be started again, as a standby. */
proctype server (byte me)
{
  byte other;
  bool got;

endstart:
  {
end:
    do
    :: atomic { state[me] == STANDBY -> other = 0 };
       activate (me, STANDBY)
    :: atomic { state[me] == STANDBY && commands < COMMANDS -> commands++ };
       state[me] = RELEASED
    :: atomic { state[me] == RELEASED && commands < COMMANDS -> commands++ };
       activate (me, RELEASED)
    :: atomic { state[me] == ACTIVE && commands < COMMANDS -> commands++ };
       if
       :: release (me)
       :: flush (me)
       fi
    od
  } unless { killed[me] };
  atomic {
    killed[me] && users[me] == 0;
    state[me] = STANDBY;
    mem[me] = 0;
    base[me] = 0;
    other = 0;
    killed[me] = false
  };
  goto endstart
}

/* A client, and a thread of nbdkit's. */
proctype client (byte me)
{
  byte other;

endstart:
  {
end:
    do
    :: atomic { state[me] == ACTIVE && requests < REQUESTS -> requests++ };
#ifdef BREAK_ENTER
       if
       :: state[me] == ACTIVE ->
          users[me]++;
#else
       users[me]++;
       if
       :: state[me] == ACTIVE ->
#endif
          assert (marked == NOBODY || marked == me);
          if
          :: marked == NOBODY ->
             write_begin (me);
             marked = me;
             write_end (me)
          :: else
          fi;
          write_begin (me);
          mem[me]++;
          write_end (me)
#ifdef BREAK_ENTER
          ; users[me]--
       :: else
       fi
#else
       :: else
       fi;
       users[me]--
#endif
    od
  } unless { killed[me] };
  atomic {
    other = 0;
    users[me] = 0
  };
endkilled:
  !killed[me];
  goto endstart
}

/* The kernel drops its locks; nothing of it runs any more. */
proctype killer ()
{
  byte who;

end:
  do
  :: kills < KILLS ->
     who = 0;
     do
     :: who < SERVERS - 1 -> who++
     :: break
     od;
     atomic {
       !killed[who];
       killed[who] = true;
       kills++;
       locks[USES + who] = false;
       locks[UNSHARES + who] = false;
       writes[who] = 0
     }
  od
}

/* Another program that keeps to the same locks, once. */
#ifdef WITH_QEMU
proctype qemu ()
{
  byte other;
  bool got;

  try_lock (QEMU, false, got);
  if
  :: got ->
     assert (disk >= flushed);
     write_begin (QEMU);
     atomic {
       marked = NOBODY;
       disk++;
       flushed = disk
     };
     write_end (QEMU);
     unlock (QEMU)
  :: else
  fi
}
#endif

init
{
  byte i;

  atomic {
    do
    :: i < SERVERS ->
       state[i] = STANDBY;
       run server (i);
       run client (i);
       i++
    :: else -> break
    od;
    run killer ();
#ifdef WITH_QEMU
    run qemu ()
#endif
  }
}
