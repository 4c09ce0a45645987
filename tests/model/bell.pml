/* The sleep and wake protocol of src/shmkit/sync/doorbell.py, as a ring uses it.
 *
 * Producers publish frames in turns (their lock is mutex.pml), consumers take them in turns; a
 * consumer that finds nothing sleeps on a doorbell, a flag and a semaphore; after a frame it may turn
 * to other things for good. Producers that wait for room do the same with the roles swapped. There are no slices: who
 * sleeps sleeps until there is a token. So what the model proves is that no wake-up is lost, and that
 * the slices are needed for nothing but deaths.
 *
 * The memory is that of x86-64: a store waits in a buffer of its process (of one place: a second
 * store drains the first) and is seen by others later; loads go past it. The semaphore's operations
 * drain it. The sleeper's fence_all drains every buffer. Consumers write no word that matters here
 * but the flag, and fence after it; their stores go straight to memory.
 *
 * Checked:   when nothing moves any more, nobody sleeps while there is a frame (an assertion).
 * Broken by: -DNO_FENCE        the sleeper looks again without a fence
 *            -DOWN_FENCE       the sleeper's fence drains only its own buffer, and the fast path has none
 *            -DNO_LOOK_AGAIN   the sleeper does not look again after it has set the flag
 *            -DNO_FLAG_AGAIN   who is woken does not say that others may be asleep
 *            -DNO_FENCE_AGAIN  it says so, but looks what it leaves behind without a fence between
 *            -DNO_RING_ON      who is woken and leaves frames behind does not ring for the others
 *            -DCRASHES=1       somebody is killed before any of its statements (here the slices help:
 *                              with -DSLICES a sleeper may wake without a token, and all is well)
 *
 * Comments "step: NAME" stand at the statement before which the code has the same one.
 */

#ifndef FRAMES
#define FRAMES 3
#endif
#ifndef CONSUMERS
#define CONSUMERS 2
#endif
#ifndef CRASHES
#define CRASHES 0
#endif

#define NOTHING 255

byte tail;          /* frames published, as others see it */
byte head;
bool flag;
byte tokens;

byte published;     /* tail, as the producer sees it */
byte buffer = NOTHING; /* its store buffer: a tail not yet seen by others */
bool clearing;      /* or the flag, stored 0 */
bool turn;          /* the consumers' lock */
bool busy[CONSUMERS];
bool alive[CONSUMERS + 1];
bool content[CONSUMERS]; /* took a frame, and has other things to do */
byte crashes;

#define drain() d_step { \
	if \
	:: buffer != NOTHING -> tail = buffer; buffer = NOTHING \
	:: clearing -> flag = false; clearing = false \
	:: else \
	fi }

/* The store buffer drains by itself, at any time; also that of a process which has just died. */
active proctype Memory()
{
	do
	:: d_step { buffer != NOTHING -> tail = buffer; buffer = NOTHING }
	:: d_step { clearing -> flag = false; clearing = false }
	od
}

inline ring_from_memory()
{
	if
	:: flag -> /* step: bell.clear */
		flag = false;
		tokens++ /* step: bell.post */
	:: !flag
	fi
}

proctype Producer()
{
	{
		do
		:: published < FRAMES ->
			atomic { drain(); published++; buffer = published };
#ifdef CAREFUL_PUT
			drain(); /* the careful path, and every put of a side that many share */
#endif
			if
			:: flag && !clearing -> /* step: bell.clear */
				atomic { drain(); clearing = true };
				atomic { drain(); tokens++ } /* step: bell.post */
			:: !flag || clearing
			fi
		:: published == FRAMES -> break
		od
	} unless { !alive[CONSUMERS] }
}

proctype Consumer(byte me)
{
	byte seen;
	bool slept;

	{
		do
		:: atomic { !turn -> turn = true; busy[me] = true };
			if
			:: head < tail ->
				atomic { head++; turn = false; busy[me] = false };
#ifndef NO_RING_ON
				if
				:: head != tail -> ring_from_memory()
				:: head == tail
				:: !slept /* the fast path leaves that to whoever was woken */
				fi;
#endif
				slept = false;
				if
				:: content[me] = true; false
				:: skip
				fi
			:: atomic { head == tail -> seen = tail; turn = false; busy[me] = false };
				/* Spinning is looking: it ends here or it does not. */
				do
				:: tail != seen -> break
				:: tail == seen ->
					flag = true; /* step: bell.flag */
#ifdef OWN_FENCE
					skip; /* step: bell.fence */
#else
#ifndef NO_FENCE
					drain(); /* step: bell.fence */
#endif
#endif
#ifndef NO_LOOK_AGAIN
					if
					:: tail != seen -> break
					:: tail == seen
					fi;
#endif
					if
					:: atomic { tokens > 0 -> tokens--; slept = true } /* step: bell.sleep */
#ifndef NO_FLAG_AGAIN
						flag = true; /* step: bell.flag_again */
#ifndef NO_FENCE_AGAIN
						drain() /* step: bell.fence_again */
#endif
#endif
#ifdef SLICES
					:: tail != seen /* the slice is over, and that makes a difference */
#endif
					fi
				od
			fi
		od
	} unless { !alive[me] };
	atomic {
		if
		:: busy[me] -> turn = false; busy[me] = false /* its lock goes to the next */
		:: else
		fi
	}
}

#define ASLEEP(i) (alive[i] && !content[i])

proctype Fate()
{
	byte i;

	do
	:: atomic { crashes < CRASHES ->
		if
		:: alive[0] -> alive[0] = false
		:: alive[1] -> alive[1] = false
		:: alive[CONSUMERS] -> alive[CONSUMERS] = false
		fi;
		crashes++
	   }
	:: break
	od;
	/* Nothing moves any more: the dead have let go, the buffers are empty, who lives sleeps. */
	timeout;
	assert(head == published || !(ASLEEP(0) || ASLEEP(1) || ASLEEP(CONSUMERS - 1)))
}

init {
	byte i;
	atomic {
		do
		:: i < CONSUMERS -> alive[i] = true; run Consumer(i); i++
		:: else -> break
		od;
		alive[CONSUMERS] = true;
		run Producer();
		run Fate();
		i = 0
	}
}
