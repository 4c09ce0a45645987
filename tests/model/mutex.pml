/* The protocol of src/shmkit/core.py (the lock), sync/mutex.py and segment/recovery.py: a semaphore
 * for exclusion, phases, ticks, rescue; and newcomers that find every place pending.
 *
 * PLACES participants, each with a place of its own. A killer ends up to CRASHES of them, each before
 * any of its statements; the kernel then drops its locks, its place stays as it was. Newcomers take
 * places of the dead whose phase is IDLE, when the door is free.
 *
 * Checked:   no two live ones INSIDE, never more than one token (assertions);
 *            with -DNP: as long as one waits, one gets in (no non-progress cycle).
 * Broken by: -DPOST_INSTEAD    the rescuer posts a token instead of becoming the holder
 *            -DNO_TICK_WAIT    the rescuer does not wait for the ticks of those that are ENTERING
 *            -DENTRIES_LAST    the survey reads entries only after the phase
 *            -DCLEAR_UNASKED   pending places are settled without a second look for one INSIDE (-DNP)
 *            -DCLEAR_THEN_POST the token that proves it goes back after they are settled (-DNP)
 *            -DTAKE_FOR_NOTHING it is taken though nobody died (-DNP)
 *            -DCLEAR_AT_THE_DOOR  a newcomer that finds no place settles beside a rescuer
 *
 * The counters of the code are never compared with anything but an earlier reading of the one
 * rescuer, so one bit stands for "has changed since": `ticked` for ticks, `moved` for entries; each
 * is kept only while a rescuer may look at it. One whose phase is IDLE leaves nothing behind
 * when it dies, so that is not tried.
 * An abandoned place (a signal handler raised in acquire, after a rescue; membership.move) is that
 * of one that was killed INSIDE, and its owner a newcomer. Stores are seen in order and at once: those whose
 * delay would matter are followed by a locked instruction of the semaphore or the kernel.
 *
 * Comments "step: NAME" stand at the statement before which the code has the same one.
 */

#define PLACES 3
#ifndef CRASHES
#define CRASHES 2
#endif
#ifndef NEWCOMERS
#define NEWCOMERS 2
#endif
#ifndef TRIES
#define TRIES NEWCOMERS /* of newcomers that find no place */
#endif

#define IDLE 0
#define ENTERING 1
#define INSIDE 2
#define LEAVING 3
#define NOBODY PLACES

byte phase[PLACES];
bool alive[PLACES];
bool down[PLACES]; /* dead, and its process has noticed: a newcomer may be another one */
byte tokens = 1;
byte rescuer = NOBODY; /* who holds the rescue byte */
byte door = NOBODY;    /* who holds the creation byte */
bool ticked; /* the one that is noted has */
bool moved[PLACES];

/* What the rescuer has noted; global, for there is one at a time. */
byte was[PLACES];
bool gone[PLACES];
bool pending[PLACES]; /* died at the lock without its token, if that is elsewhere */
byte noted = NOBODY; /* with three places, one of them dead, it is one at most */

byte crashes;
byte newcomers;
byte tries; /* of newcomers to find a place */

inline go_inside()
{
	assert(phase[me] == ENTERING);
	phase[me] = INSIDE; /* step: mutex.inside */
	assert(tokens == 0);
	j = 0;
	do
	:: j < PLACES -> assert(j == me || !alive[j] || phase[j] != INSIDE); j++
	:: else -> break
	od;
	j = 0
}

#define FIRST (me == 0 -> 1 : 0)
#define NEXT (j + 1 == me -> j + 2 : j + 1)

/* Phases and entries of all others, place by place, with nobody coming in meanwhile. The entries are
 * read before the phase and after it: an entry between the two readings must not go unseen.
 * (Readings that follow each other are one step where a later first one, or an earlier second one,
 * could only make the rescuer more careful.) */
inline survey(compare)
{
	atomic { door == NOBODY -> door = me; same = true; j = FIRST };
	do
	:: atomic {
		j < PLACES ->
#ifndef ENTRIES_LAST
		if
		:: !compare -> moved[j] = false
		:: else
		fi;
#endif
		died = phase[j] != IDLE && !alive[j]
	   };
#ifdef ENTRIES_LAST
	   p = phase[j];
#endif
	   d_step {
#ifndef ENTRIES_LAST
		p = phase[j];
#endif
		died = died && p != IDLE;
		if
		:: compare -> same = same && p == was[j] && died == gone[j] && !moved[j]
		:: else -> was[j] = p; gone[j] = died;
#ifdef ENTRIES_LAST
			moved[j] = false
#endif
		fi;
		died = false; p = 0; j = NEXT
	   }
	:: atomic { j >= PLACES -> door = NOBODY; j = 0; break }
	od
}

inline forget_notes()
{
	d_step {
		j = 0;
		do
		:: j < PLACES -> was[j] = 0; gone[j] = false; moved[j] = false; j++
		:: else -> break
		od;
		noted = NOBODY;
		ticked = false;
		j = 0
	}
}

#define COLLECT(i) pending[i] = !alive[i] && (phase[i] == ENTERING || phase[i] == LEAVING)

inline note_pending()
{
	d_step { COLLECT(0); COLLECT(1); COLLECT(2) }
}

inline keep_pending()
{
	d_step { pending[0] = false; pending[1] = false; pending[2] = false }
}

inline settle()
{
	do
	:: d_step { pending[0] -> phase[0] = IDLE; pending[0] = false } /* step: settle.clear */
	:: d_step { !pending[0] && pending[1] -> phase[1] = IDLE; pending[1] = false }
	:: d_step { !pending[0] && !pending[1] && pending[2] -> phase[2] = IDLE; pending[2] = false }
	:: !pending[0] && !pending[1] && !pending[2] -> break
	od
}

/* Forget those who died without the token: first they are seen dead, then somebody INSIDE. */
inline settle_beside_holder()
{
	note_pending();
#ifndef CLEAR_UNASKED
	if
	:: phase[0] == INSIDE
	:: phase[1] == INSIDE
	:: phase[2] == INSIDE
	:: d_step { else -> pending[0] = false; pending[1] = false; pending[2] = false }
	fi;
#endif
	settle()
}

#ifdef TAKE_FOR_NOTHING
#define SOME_PENDING true
#else
#define SOME_PENDING (pending[0] || pending[1] || pending[2])
#endif

/* The same for one that has no place, so that its own death with the token leaves no trace but that
 * of others: the token is proof, too; it is taken only where a place is pending, and goes back before
 * it is settled. */
inline settle_by_token()
{
	note_pending();
	if
	:: atomic { tokens > 0 && SOME_PENDING -> tokens--; held = true } /* step: settle.take */
	:: tokens == 0 || !SOME_PENDING
	fi;
#ifdef CLEAR_THEN_POST
	if
	:: held -> settle()
	:: !held
	fi;
#endif
	if
	:: atomic { held -> assert(tokens == 0); tokens++; held = false }; /* step: settle.post */
		settle()
	:: atomic { held && crashes < CRASHES -> crashes++; held = false }; /* killed between them */
		keep_pending()
	:: atomic { !held -> keep_pending() }
	fi
}

#define SOME(what) (what(0) || what(1) || what(2))
#define DIED_INSIDE(i) (gone[i] && was[i] == INSIDE)
#define DIED(i) gone[i]
#define HAS_NOW(i) (i != me && !gone[i] && phase[i] == INSIDE)
#define HAS_OR_GIVES(i) (!gone[i] && (was[i] == INSIDE || was[i] == LEAVING))

proctype Participant(byte me)
{
	byte j, p;
	bool died, same;

come:
	{
		same = false;
start:
		if
		:: atomic { phase[me] == IDLE -> phase[me] = ENTERING } /* step: mutex.entering */
		:: goto leave
		fi;
wait:
		if
		:: atomic { tokens > 0 -> tokens-- } /* step: mutex.take */
			goto inside
		:: tokens == 0
		fi;
		ticked = (ticked || noted == me); /* step: mutex.tick */
		if
		:: atomic { rescuer == NOBODY -> rescuer = me; forget_notes() } /* step: mutex.rescue */
		:: rescuer != NOBODY -> goto in_vain
		fi;

		survey(false);
		if
		:: !SOME(DIED) -> goto rescued
		:: SOME(DIED) && SOME(HAS_NOW) ->
			atomic { door == NOBODY -> door = me };
			settle_beside_holder();
			door = NOBODY;
			goto rescued
		:: SOME(DIED) && !SOME(HAS_NOW)
		fi;
		if
		#ifdef POST_INSTEAD
		:: SOME(DIED_INSIDE) -> goto post
#else
		:: SOME(DIED_INSIDE) -> goto succeed
#endif
		:: !SOME(DIED_INSIDE) && SOME(HAS_OR_GIVES) -> goto rescued /* it lives, leave it */
		:: else
		fi;
		if
		:: atomic { tokens > 0 -> tokens-- } /* step: mutex.try */
			goto succeed
		:: tokens == 0
		fi;
#ifndef NO_TICK_WAIT
		d_step {
			j = 0;
			do
			:: j < PLACES && j != me && !gone[j] && was[j] == ENTERING ->
				noted = j; ticked = false; j++
			:: j < PLACES && !(j != me && !gone[j] && was[j] == ENTERING) -> j++
			:: j == PLACES -> break
			od;
			j = 0
		};
		do
		:: atomic { noted != NOBODY && phase[noted] == ENTERING && !ticked ->
			if
			:: tokens > 0 -> tokens--; /* step: mutex.try */
				goto succeed
			/* The deadline: it may come any time, and it does come if the wait has no end. */
#ifdef NP
			:: tokens == 0 && !alive[noted] -> goto rescued
			:: tokens == 0 && alive[noted]
#else
			:: tokens == 0 -> goto rescued
			:: tokens == 0
#endif
			fi
		   }
		:: noted == NOBODY || phase[noted] != ENTERING || ticked -> break
		od;
#endif
		survey(true);
		if
		:: !same -> goto rescued
		:: atomic { same && tokens > 0 -> tokens-- } /* step: mutex.try */
			goto succeed
		:: same && tokens == 0
		fi;

#ifdef POST_INSTEAD
post:
		tokens++;
		assert(tokens == 1);
		goto clear;
#endif
succeed:
		atomic { go_inside() };
		moved[me] = (rescuer != NOBODY); /* step: mutex.count */
clear:
		do
		:: atomic { gone[0] -> phase[0] = IDLE; gone[0] = false } /* step: mutex.clear */
		:: atomic { !gone[0] && gone[1] -> phase[1] = IDLE; gone[1] = false }
		:: atomic { !gone[0] && !gone[1] && gone[2] -> phase[2] = IDLE; gone[2] = false }
		:: !gone[0] && !gone[1] && !gone[2] -> break
		od;
rescued:
		atomic {
			same = false;
			forget_notes();
			rescuer = NOBODY; /* step: mutex.rescued */
			if
			:: phase[me] == INSIDE -> goto progress_inside
			:: else
			fi
		};
in_vain:
		if
		:: goto wait
		:: phase[me] = IDLE; /* step: mutex.give_up */
			goto leave
		fi;

inside:
		atomic { go_inside() };
		moved[me] = (rescuer != NOBODY); /* step: mutex.count */
progress_inside:
		phase[me] = LEAVING; /* step: mutex.leaving */
		atomic { assert(tokens == 0); tokens++ }; /* step: mutex.post */
		phase[me] = IDLE; /* step: mutex.idle */
		goto start;
leave:
		atomic { same = false; j = 0 };
end_left:
		false
	} unless { !alive[me] };
	d_step { j = 0; p = 0; died = false; same = false; down[me] = true };
end_dead:
	alive[me] -> goto come
}

inline kill(i)
{
	alive[i] = false;
	if
	:: rescuer == i -> rescuer = NOBODY
	:: else
	fi;
	if
	:: door == i -> door = NOBODY
	:: else
	fi;
	crashes++
}

inline come_in(i)
{
	down[i] = false;
	alive[i] = true;
	newcomers++
}

#define MAY_DIE(i) (crashes < CRASHES && alive[i] && phase[i] != IDLE)
#define NEWCOMER (PLACES + 1)
#define FULL_HOUSE (tries < TRIES && (down[0] || down[1] || down[2]))
#define MAY_COME(i) (newcomers < NEWCOMERS && down[i] && phase[i] == IDLE && door == NOBODY)

proctype Fate()
{
	bool held;

end_fate:
	do
	:: atomic { MAY_DIE(0) -> kill(0) }
	:: atomic { MAY_DIE(1) -> kill(1) }
	:: atomic { MAY_DIE(2) -> kill(2) }
#ifndef NO_FULL_HOUSE
	/* A newcomer that finds no place settles pending ones itself, as a rescuer. */
#ifdef CLEAR_AT_THE_DOOR
	:: atomic { FULL_HOUSE && door == NOBODY -> door = NEWCOMER; tries++ };
		settle_beside_holder();
		door = NOBODY
#else
	:: atomic { FULL_HOUSE && door == NOBODY && rescuer == NOBODY ->
		door = NEWCOMER; rescuer = NEWCOMER; tries++
	   };
		if
		:: settle_beside_holder()
		:: settle_by_token()
		fi;
		atomic { rescuer = NOBODY; door = NOBODY }
#endif
#endif
	:: atomic { MAY_COME(0) -> come_in(0) }
	:: atomic { MAY_COME(1) -> come_in(1) }
	:: atomic { MAY_COME(2) -> come_in(2) }
	:: break
	od
}

init {
	byte i;
	atomic {
		do
		:: i < PLACES -> alive[i] = true; run Participant(i); i++
		:: else -> break
		od;
		run Fate();
		i = 0
	}
}
