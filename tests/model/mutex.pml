/* The protocol of src/shmkit/sync/mutex.py, recovery.py and evidence.py: a semaphore for exclusion,
 * phases, ticks, rescue; and newcomers that find every line to be evidence.
 *
 * LINES participants, each with a line of its own. A killer ends up to CRASHES of them, each before
 * any of its statements; the kernel then drops its locks, its line stays as it was. Newcomers take
 * lines of the dead whose phase is IDLE, when the door is free.
 *
 * Checked:   no two live ones INSIDE, never more than one token (assertions);
 *            with -DNP: as long as anybody waits, somebody gets in (no non-progress cycle).
 * Broken by: -DPOST_INSTEAD    the rescuer posts a token instead of becoming the holder
 *            -DNO_TICK_WAIT    the rescuer does not wait for the ticks of those that are ENTERING
 *            -DENTRIES_LAST    the survey reads entries only after the phase
 *            -DCLEAR_UNASKED   evidence is cleared without a second look for one INSIDE (-DNP)
 *            -DCLEAR_THEN_POST the token that proves it goes back after the evidence (-DNP)
 *            -DTAKE_FOR_NOTHING it is taken though nobody died (-DNP)
 *            -DCLEAR_AT_THE_DOOR  a newcomer that finds no line clears evidence beside a rescuer
 *
 * The counters of the code are never compared with anything but an earlier reading of the one
 * rescuer, so one bit stands for "has changed since": `ticked` for ticks, `moved` for entries; each
 * is kept only while there is somebody to look at it. One whose phase is IDLE leaves nothing behind
 * when it dies, so that is not tried.
 * An abandoned line (a signal handler raised in acquire, after a rescue; membership.move) is that of one
 * that was killed INSIDE, and its owner a newcomer. Stores are seen in order and at once: those whose
 * delay would matter are followed by a locked instruction of the semaphore or the kernel.
 *
 * Comments "step: NAME" stand at the statement before which the code has the same one.
 */

#define LINES 3
#ifndef CRASHES
#define CRASHES 2
#endif
#ifndef NEWCOMERS
#define NEWCOMERS 2
#endif
#ifndef TRIES
#define TRIES NEWCOMERS /* of newcomers that find no line */
#endif

#define IDLE 0
#define ENTERING 1
#define INSIDE 2
#define LEAVING 3
#define NOBODY LINES

byte phase[LINES];
bool alive[LINES];
bool down[LINES]; /* dead, and its process has noticed: a newcomer may be another one */
byte tokens = 1;
byte rescuer = NOBODY; /* who holds the rescue byte */
byte door = NOBODY;    /* who holds the creation byte */
bool ticked; /* the one that is noted has */
bool moved[LINES];

/* What the rescuer has noted; global, for there is one at a time. */
byte was[LINES];
bool gone[LINES];
bool evidence[LINES]; /* died at the lock without its token, if that is elsewhere */
byte noted = NOBODY; /* with three lines, one of them dead, it is one at most */

byte crashes;
byte newcomers;
byte tries; /* of newcomers to find a line */

inline go_inside()
{
	assert(phase[me] == ENTERING);
	phase[me] = INSIDE; /* step: mutex.inside */
	assert(tokens == 0);
	j = 0;
	do
	:: j < LINES -> assert(j == me || !alive[j] || phase[j] != INSIDE); j++
	:: else -> break
	od;
	j = 0
}

#define FIRST (me == 0 -> 1 : 0)
#define NEXT (j + 1 == me -> j + 2 : j + 1)

/* Phases and entries of all others, line by line, with nobody coming in meanwhile. The entries are
 * read before the phase and after it: an entry between the two readings must not go unseen.
 * (Readings that follow each other are one step where a later first one, or an earlier second one,
 * could only make the rescuer more careful.) */
inline survey(compare)
{
	atomic { door == NOBODY -> door = me; same = true; j = FIRST };
	do
	:: atomic {
		j < LINES ->
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
	:: atomic { j >= LINES -> door = NOBODY; j = 0; break }
	od
}

inline forget_notes()
{
	d_step {
		j = 0;
		do
		:: j < LINES -> was[j] = 0; gone[j] = false; moved[j] = false; j++
		:: else -> break
		od;
		noted = NOBODY;
		ticked = false;
		j = 0
	}
}

#define COLLECT(i) evidence[i] = !alive[i] && (phase[i] == ENTERING || phase[i] == LEAVING)

inline collect_evidence()
{
	d_step { COLLECT(0); COLLECT(1); COLLECT(2) }
}

inline keep_evidence()
{
	d_step { evidence[0] = false; evidence[1] = false; evidence[2] = false }
}

inline drop_evidence()
{
	do
	:: d_step { evidence[0] -> phase[0] = IDLE; evidence[0] = false } /* step: evidence.forget */
	:: d_step { !evidence[0] && evidence[1] -> phase[1] = IDLE; evidence[1] = false }
	:: d_step { !evidence[0] && !evidence[1] && evidence[2] -> phase[2] = IDLE; evidence[2] = false }
	:: !evidence[0] && !evidence[1] && !evidence[2] -> break
	od
}

/* Forget those who died without the token: first they are seen dead, then somebody INSIDE. */
inline clear_beside_holder()
{
	collect_evidence();
#ifndef CLEAR_UNASKED
	if
	:: phase[0] == INSIDE
	:: phase[1] == INSIDE
	:: phase[2] == INSIDE
	:: d_step { else -> evidence[0] = false; evidence[1] = false; evidence[2] = false }
	fi;
#endif
	drop_evidence()
}

#ifdef TAKE_FOR_NOTHING
#define SOME_EVIDENCE true
#else
#define SOME_EVIDENCE (evidence[0] || evidence[1] || evidence[2])
#endif

/* The same for one that has no line, so that its own death with the token leaves no trace but that
 * of others: the token is proof, too; it is taken only where there is evidence, and goes back before
 * the evidence goes. */
inline clear_by_token()
{
	collect_evidence();
	if
	:: atomic { tokens > 0 && SOME_EVIDENCE -> tokens--; held = true } /* step: evidence.take */
	:: tokens == 0 || !SOME_EVIDENCE
	fi;
#ifdef CLEAR_THEN_POST
	if
	:: held -> drop_evidence()
	:: !held
	fi;
#endif
	if
	:: atomic { held -> assert(tokens == 0); tokens++; held = false }; /* step: evidence.post */
		drop_evidence()
	:: atomic { held && crashes < CRASHES -> crashes++; held = false }; /* killed between them */
		keep_evidence()
	:: atomic { !held -> keep_evidence() }
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
			clear_beside_holder();
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
			:: j < LINES && j != me && !gone[j] && was[j] == ENTERING ->
				noted = j; ticked = false; j++
			:: j < LINES && !(j != me && !gone[j] && was[j] == ENTERING) -> j++
			:: j == LINES -> break
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
#define NEWCOMER (LINES + 1)
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
	/* A newcomer that finds no line clears evidence itself, as a rescuer. */
#ifdef CLEAR_AT_THE_DOOR
	:: atomic { FULL_HOUSE && door == NOBODY -> door = NEWCOMER; tries++ };
		clear_beside_holder();
		door = NOBODY
#else
	:: atomic { FULL_HOUSE && door == NOBODY && rescuer == NOBODY ->
		door = NEWCOMER; rescuer = NEWCOMER; tries++
	   };
		if
		:: clear_beside_holder()
		:: clear_by_token()
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
		:: i < LINES -> alive[i] = true; run Participant(i); i++
		:: else -> break
		od;
		run Fate();
		i = 0
	}
}
