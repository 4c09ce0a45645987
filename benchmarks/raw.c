/* A ring between two processes without Python: the bound for shmkit.Ring one to one.
 *
 *     raw stream SIZE COUNT ROOM SECONDS             prints frames a second
 *     raw trips SIZE COUNT ROOM SECONDS SILENCE      prints nanoseconds of each, there and back,
 *                                                    after so many nanoseconds of silence
 *
 * It takes the steps of shmkit's common case, in the same order and with the same bytes: frames of
 * a header of 16 bytes and a payload, aligned to 16, never across the end of a lap; positions that
 * only grow; each side keeps the other's position as it last saw it; a wait spins, yields, then
 * sleeps on a semaphore behind a flag. What it leaves out is the point: no objects, no locks
 * between threads, no roles, no checks of what the other side stores, no care for a process that
 * dies.
 *
 * Equal work: a frame is copied in from memory that is used again, and copied out into memory that
 * is allocated for it and freed before the next, as a `bytes` is. Exit status 1: wrong arguments;
 * 2: the system refused something; 3: a frame is missing or wrong. SIGALRM ends both processes when
 * the seconds are up. C11 and POSIX; MAP_ANONYMOUS is in POSIX since 2024. On Linux a sleeper
 * fences for both sides, as in shmkit, so that a frame costs no fence; elsewhere each side fences.
 */
#define _DEFAULT_SOURCE
#include <sched.h>
#include <semaphore.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/membarrier.h>
#include <sys/syscall.h>
#endif

typedef atomic_uint_fast64_t Word;

enum { LINE = 128, PAGE = 4096, HEADER = 16, MOST_SPINS = 160, FEWEST_SPINS = 16 };
static const uint64_t YIELDING = 30000, SLICE = 50000000, SECOND = 1000000000; /* nanoseconds */
static const uint64_t PAD = (uint64_t)1 << 48; /* in a header: it only fills the lap */

typedef struct {
    alignas(LINE) Word flag; /* 1: the other side may be asleep */
    alignas(LINE) sem_t semaphore;
} Bell;

typedef struct { /* in shared memory: one writer for each line */
    alignas(LINE) Word tail;
    alignas(LINE) Word head;
    Bell data, space;
    alignas(PAGE) unsigned char bytes[];
} Shared;

typedef struct { /* one side of it, in memory of its own process */
    Shared *shared;
    uint64_t mask; /* bytes of a lap, less one */
    uint64_t seen; /* the other side's position, as it was last loaded */
    int spins;
    unsigned glances;
} Side;

static void demand(bool fine, int status) { if (!fine) exit(status); }

static uint64_t now(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static struct timespec as_timespec(uint64_t nanoseconds)
{
    return (struct timespec){(time_t)(nanoseconds / SECOND), (long)(nanoseconds % SECOND)};
}

static inline uint64_t load(Word *at) { return atomic_load_explicit(at, memory_order_acquire); }
static inline void store(Word *at, uint64_t to)
{
    atomic_store_explicit(at, to, memory_order_release);
}

static Side open_ring(uint64_t room)
{
    uint64_t size = PAGE;
    while (size < room) size *= 2;
    void *memory = mmap(NULL, sizeof(Shared) + size, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    demand(memory != MAP_FAILED, 2);
    Shared *shared = memory;
    demand(sem_init(&shared->data.semaphore, 1, 0) == 0, 2);
    demand(sem_init(&shared->space.semaphore, 1, 0) == 0, 2);
    return (Side){.shared = shared, .mask = size - 1, .spins = MOST_SPINS};
}

/* -- waiting ------------------------------------------------------------------------- */

#if defined(__x86_64__) || defined(__i386__)
static inline void pause_cpu(void) { __builtin_ia32_pause(); }
#else
static inline void pause_cpu(void) {}
#endif

/* Whether a position moved while it was looked at. It spins as long as has been paying. */
static bool glance(Side *side, Word *at, uint64_t seen)
{
    int spins = side->spins;
    for (int spin = 0; spin < spins; spin++) {
        if (load(at) != seen) {
            side->spins = 2 * spins < MOST_SPINS ? 2 * spins : MOST_SPINS;
            return true;
        }
        pause_cpu();
    }
    int fewer = spins / 2 > FEWEST_SPINS ? spins / 2 : FEWEST_SPINS;
    side->spins = ++side->glances % 64 ? fewer : MOST_SPINS;
    uint64_t end = now(CLOCK_MONOTONIC) + YIELDING;
    do {
        sched_yield();
        if (load(at) != seen) return true;
    } while (now(CLOCK_MONOTONIC) <= end);
    return false;
}

static bool sleeper_fences; /* for the other side, too */

static void join_fences(void)
{
#ifdef __linux__
    int command = MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED;
    sleeper_fences = syscall(SYS_membarrier, command, 0, 0) == 0;
#endif
}

/* Each side has stored, and is about to load what the other stores. */
static void fence_all(void)
{
    atomic_thread_fence(memory_order_seq_cst);
#ifdef __linux__
    if (sleeper_fences) syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
#endif
}

/* Wait until a position moves. */
static void await(Side *side, Word *at, uint64_t seen, Bell *bell)
{
    if (glance(side, at, seen)) return;
    while (load(at) == seen) {
        store(&bell->flag, 1);
        fence_all();
        if (load(at) != seen) return;
        struct timespec until = as_timespec(now(CLOCK_REALTIME) + SLICE);
        sem_timedwait(&bell->semaphore, &until); /* however it ends, the loop looks again */
    }
}

static inline void tell(Bell *bell)
{
    if (!sleeper_fences) atomic_thread_fence(memory_order_seq_cst);
    atomic_signal_fence(memory_order_seq_cst); /* the compiler keeps the order, too */
    if (load(&bell->flag)) {
        store(&bell->flag, 0);
        sem_post(&bell->semaphore);
    }
}

/* -- frames -------------------------------------------------------------------------- */

static inline uint64_t step_of(uint64_t size) { return (size + 2 * HEADER - 1) & ~(uint64_t)15; }

static inline unsigned char *frame_at(Side *side, uint64_t position)
{
    return side->shared->bytes + (position & side->mask);
}

static void put(Side *side, const void *bytes, uint64_t size)
{
    Shared *shared = side->shared;
    uint64_t tail = atomic_load_explicit(&shared->tail, memory_order_relaxed);
    uint64_t lap_end = (tail | side->mask) + 1, begin = tail;
    if (tail + step_of(size) > lap_end) begin = lap_end;
    uint64_t end = begin + step_of(size);
    while (end - side->seen > side->mask + 1) {
        uint64_t head = load(&shared->head);
        if (head == side->seen) await(side, &shared->head, head, &shared->space);
        side->seen = load(&shared->head);
    }
    if (begin != tail) memcpy(frame_at(side, tail), &PAD, sizeof(PAD));
    memcpy(frame_at(side, begin), &size, sizeof(size));
    memcpy(frame_at(side, begin) + HEADER, bytes, size);
    store(&shared->tail, end);
    tell(&shared->data);
}

/* In memory that the caller frees. */
static unsigned char *get(Side *side, uint64_t *size)
{
    Shared *shared = side->shared;
    uint64_t head = atomic_load_explicit(&shared->head, memory_order_relaxed);
    while (side->seen == head) {
        side->seen = load(&shared->tail);
        if (side->seen == head) await(side, &shared->tail, head, &shared->data);
    }
    memcpy(size, frame_at(side, head), sizeof(*size));
    if (*size & PAD) { /* the frame behind it was committed together with it */
        head = (head | side->mask) + 1;
        memcpy(size, frame_at(side, head), sizeof(*size));
    }
    unsigned char *frame = malloc(*size + 33); /* as a `bytes` has */
    demand(frame != NULL, 2);
    memcpy(frame, frame_at(side, head) + HEADER, *size);
    store(&shared->head, head + step_of(*size));
    tell(&shared->space);
    return frame;
}

/* -- the measures -------------------------------------------------------------------- */

static unsigned char *new_frame(uint64_t size, int letter)
{
    unsigned char *frame = malloc(size);
    demand(frame != NULL, 2);
    memset(frame, letter, size);
    return frame;
}

static pid_t fork_with_alarm(unsigned seconds)
{
    pid_t child = fork();
    demand(child >= 0, 2);
    join_fences(); /* both: the kernel has it or not */
    alarm(seconds);
    return child;
}

static void expect_exit(pid_t child)
{
    int status;
    demand(waitpid(child, &status, 0) == child && status == 0, 3);
}

static void stream(uint64_t size, uint64_t count, uint64_t room, unsigned seconds)
{
    Side side = open_ring(room);
    unsigned char *first = new_frame(size, 'f'), *last = new_frame(size, 'l');
    demand(count >= 3 && 4 * step_of(size) <= side.mask + 1, 1);
    pid_t child = fork_with_alarm(seconds);
    if (child == 0) {
        unsigned char *frame = new_frame(size, '-');
        put(&side, first, size);
        for (uint64_t sent = 2; sent < count; sent++) put(&side, frame, size);
        put(&side, last, size);
        _exit(0);
    }
    uint64_t got;
    unsigned char *frame = get(&side, &got);
    uint64_t begin = now(CLOCK_MONOTONIC);
    demand(got == size && memcmp(frame, first, size) == 0, 3);
    for (uint64_t taken = 1; taken < count; taken++) {
        free(frame);
        frame = get(&side, &got);
    }
    uint64_t took = now(CLOCK_MONOTONIC) - begin;
    demand(got == size && memcmp(frame, last, size) == 0, 3);
    expect_exit(child);
    demand(load(&side.shared->tail) == load(&side.shared->head), 3); /* not one too many */
    printf("%.3f\n", (double)(count - 1) * (double)SECOND / (double)took);
}

static void trips(uint64_t size, uint64_t count, uint64_t room, unsigned seconds, uint64_t silence)
{
    Side there = open_ring(room), back = open_ring(room);
    demand(4 * step_of(size) <= there.mask + 1, 1);
    uint64_t early = count / 10, got; /* these are not counted */
    struct timespec pause = as_timespec(silence);
    pid_t child = fork_with_alarm(seconds);
    if (child == 0) {
        for (uint64_t number = 0; number < early + count; number++) {
            unsigned char *frame = get(&there, &got);
            put(&back, frame, got);
            free(frame);
        }
        _exit(0);
    }
    unsigned char *frame = new_frame(size, '-');
    uint64_t *times = calloc(early + count, sizeof(*times));
    demand(times != NULL, 2);
    for (uint64_t number = 0; number < early + count; number++) {
        frame[0] = (unsigned char)number;
        if (silence) nanosleep(&pause, NULL);
        uint64_t begin = now(CLOCK_MONOTONIC);
        put(&there, frame, size);
        unsigned char *answer = get(&back, &got);
        times[number] = now(CLOCK_MONOTONIC) - begin;
        demand(got == size && memcmp(answer, frame, size) == 0, 3);
        free(answer);
    }
    expect_exit(child);
    for (uint64_t at = early; at < early + count; at++) printf("%ju\n", (uintmax_t)times[at]);
}

int main(int count, char **words)
{
    uint64_t numbers[5] = {0};
    for (int at = 2; at < count && at < 7; at++) numbers[at - 2] = strtoull(words[at], NULL, 10);
    if (count == 6 && strcmp(words[1], "stream") == 0) {
        stream(numbers[0], numbers[1], numbers[2], (unsigned)numbers[3]);
    } else if (count == 7 && strcmp(words[1], "trips") == 0) {
        trips(numbers[0], numbers[1], numbers[2], (unsigned)numbers[3], numbers[4]);
    } else {
        return 1;
    }
    return 0;
}
