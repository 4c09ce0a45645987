/* What a ring costs without Python: the same frames, words and waits as shmkit's, in C alone.
 *
 *     raw stream SIZE COUNT ROOM     one process to one: prints frames a second
 *     raw trips COUNT SILENCE_US     64 bytes there and back: prints seconds of each trip
 *
 * As `bytes` have to go in and come out, a frame is copied in from memory of the producer's, and out
 * into memory that is allocated for it and freed afterwards. The first and the last frame are
 * compared, and all are counted. It recovers from no death, checks nothing that it loads, and knows
 * no end: what shmkit does besides.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t word;

enum { SPINS = 160, YIELD_NS = 30000, SLICE_NS = 50000000, HEADER = 16 };

typedef struct {
    word value __attribute__((aligned(128)));
} line;

typedef struct { /* a doorbell: a flag, "the other side may be asleep", and what it sleeps on */
    line flag;
    sem_t semaphore __attribute__((aligned(128)));
} bell;

typedef struct {
    line tail, head;
    bell data, space;
    char bytes[] __attribute__((aligned(4096)));
} ring;

static word load(const line *at) { return __atomic_load_n(&at->value, __ATOMIC_ACQUIRE); }
static void store(line *at, word value) { __atomic_store_n(&at->value, value, __ATOMIC_RELEASE); }

static word now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (word)t.tv_sec * 1000000000 + (word)t.tv_nsec;
}

static void *shared(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) exit(2);
    return memory;
}

static ring *new_ring(size_t room)
{
    ring *made = shared(sizeof(ring) + room);
    sem_init(&made->data.semaphore, 1, 0);
    sem_init(&made->space.semaphore, 1, 0);
    return made;
}

static void ring_bell(bell *at)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (load(&at->flag)) {
        store(&at->flag, 0);
        sem_post(&at->semaphore);
    }
}

/* Wait until a word is no longer what it was. */
static void wait_for(const line *at, word seen, bell *where)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (load(at) != seen) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    for (word end = now() + YIELD_NS; now() < end;) {
        sched_yield();
        if (load(at) != seen) return;
    }
    while (load(at) == seen) {
        struct timespec until;
        store(&where->flag, 1);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (load(at) != seen) return;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += SLICE_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        sem_timedwait(&where->semaphore, &until);
    }
}

static word step_of(word size) { return (size + HEADER + 15) & ~(word)15; }

/* Frames do not lie across the end of a lap: `mask` is a lap's size less one. */
static void put(ring *to, word mask, const char *bytes, word size)
{
    word tail = load(&to->tail), step = step_of(size), at = tail, end;
    if (at + step > (tail | mask) + 1) at = (tail | mask) + 1;
    end = at + step;
    for (word head; end - (head = load(&to->head)) > mask + 1;) wait_for(&to->head, head, &to->space);
    if (at != tail) memcpy(to->bytes + (tail & mask), &(word){UINT64_MAX}, 8);
    memcpy(to->bytes + (at & mask), &size, 8);
    memcpy(to->bytes + (at & mask) + HEADER, bytes, size);
    store(&to->tail, end);
    ring_bell(&to->data);
}

/* The caller frees it. */
static char *get(ring *from, word mask, word *size)
{
    word head = load(&from->head);
    for (word tail; (tail = load(&from->tail)) == head;) wait_for(&from->tail, tail, &from->data);
    memcpy(size, from->bytes + (head & mask), 8);
    if (*size == UINT64_MAX) {
        head = (head | mask) + 1;
        memcpy(size, from->bytes, 8);
    }
    char *frame = malloc(*size + 33); /* as large as a bytes object */
    if (frame == NULL) exit(2);
    memcpy(frame, from->bytes + (head & mask) + HEADER, *size);
    store(&from->head, head + step_of(*size));
    ring_bell(&from->space);
    return frame;
}

static void stream(word size, word count, word room)
{
    word mask = 4096, got;
    while (mask < room) mask *= 2;
    ring *between = new_ring(mask);
    mask -= 1;
    char *frame = malloc(size), *last = NULL;
    memset(frame, 'x', size);
    if (fork() == 0) {
        for (word number = 0; number < count; number++) {
            frame[0] = number == 0 ? 'f' : number == count - 1 ? 'l' : 'x';
            put(between, mask, frame, size);
        }
        _exit(0);
    }
    char *first = get(between, mask, &got);
    word begin = now();
    for (word number = 1; number < count; number++) {
        free(last);
        last = get(between, mask, &got);
        if (got != size) exit(3);
    }
    double seconds = (double)(now() - begin) / 1e9;
    if (first[0] != 'f' || last == NULL || last[0] != 'l' || last[size - 1] != 'x') exit(3);
    if (load(&between->head) != load(&between->tail)) exit(3);
    wait(NULL);
    printf("%.1f\n", (double)(count - 1) / seconds);
}

static void trips(word count, useconds_t silence)
{
    word mask = (4 << 20) - 1, size;
    ring *there = new_ring(mask + 1), *back = new_ring(mask + 1);
    if (fork() == 0) {
        for (word number = 0; number < count + count / 10; number++) {
            char *frame = get(there, mask, &size);
            put(back, mask, frame, size);
            free(frame);
        }
        _exit(0);
    }
    for (word number = 0; number < count + count / 10; number++) {
        char frame[64] = {(char)number};
        if (silence) usleep(silence);
        word begin = now();
        put(there, mask, frame, sizeof(frame));
        char *answer = get(back, mask, &size);
        double seconds = (double)(now() - begin) / 1e9;
        if (size != sizeof(frame) || memcmp(frame, answer, size) != 0) exit(3);
        free(answer);
        if (number >= count / 10) printf("%.9f\n", seconds); /* a tenth before is not counted */
    }
    wait(NULL);
}

int main(int count, char **args)
{
    if (count == 5 && strcmp(args[1], "stream") == 0) {
        stream(strtoull(args[2], NULL, 10), strtoull(args[3], NULL, 10), strtoull(args[4], NULL, 10));
    } else if (count == 4 && strcmp(args[1], "trips") == 0) {
        trips(strtoull(args[2], NULL, 10), (useconds_t)strtoul(args[3], NULL, 10));
    } else {
        return 1;
    }
    return 0;
}
