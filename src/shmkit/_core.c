/* The compiled core: the common case of every hot step, and nothing else.
 *
 * core.py is the reference: read it first. Each type here is the base of a class in Python that has
 * the same methods in plain Python, as `_plain_NAME` (compiled.py). What is no common case goes on
 * there.
 *
 * With the GIL nothing comes between two lines here: no other thread, no signal handler, no
 * finalizer. So the steps need no lock between threads. The GIL is let go in three places only, a
 * wait, the yields before one, and the copy of a large frame; there nothing is held, and what is
 * looked at holds an export of the memory: closing it beside a waiter does no harm.
 *
 * Index words are loaded with acquire and stored with release order. What is loaded is input: it is
 * checked before it is used. Names in capitals are those of core.py and segment/words.py, and come
 * from there, by a header that setup.py makes. The build for tests calls a hook at each `step`.
 *
 * None, True and False are returned by Py_NewRef. Py_RETURN_NONE of the headers of 3.12 and later
 * counts nothing, also for the stable ABI of 3.11, where a count that falls to 0 ends the process.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/membarrier.h>
#include <sys/syscall.h>
#endif

#include "_core_words.h"

#define OBJECT(self) ((PyObject *)(self))

typedef uint64_t word;

static inline word load(const word *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
static inline void store(word *at, word value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
static inline void count_up(word *at) { store(at, (load(at) + 1) & COUNTER); }
static inline void fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* segment/fences.py: a sleeper fences for the ringers, too, if they have joined. In the cache of
 * the word that was just stored a fence may cost more than all of a put. */
static int has_joined;

static void fence_all(void)
{
    fence();
#ifdef SYS_membarrier
    syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
#endif
}

static void join_fence_all(void)
{
#if defined(SYS_membarrier) && defined(__x86_64__) /* elsewhere plain Python does not call it */
    has_joined = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
#endif
}

static inline void fence_or_joined(void)
{
    if (has_joined) __atomic_signal_fence(__ATOMIC_SEQ_CST);
    else fence();
}

static inline void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* -- what the types share: memory, and attributes for Python ----------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *memory[2]; /* the second of a cursor only: a consumer's mark */
    Py_buffer views[2];  /* their bytes; .buf is NULL if there are none that may be written */
    PyObject *uses[3]; /* other objects of the core, or test doubles of them, or NULL for None */
    void *known[3];    /* the same ones if they are of this module, else NULL: Python goes on */
    PyObject *kept[2];
} Head;

static void get_bytes(PyObject *of, Py_buffer *view)
{
    if (of != NULL && of != Py_None) {
        if (PyObject_GetBuffer(of, view, PyBUF_WRITABLE) == 0) return;
        PyErr_Clear(); /* of this, and not one that an object is dropped by */
    }
    memset(view, 0, sizeof(*view));
}

static void let_go(Py_buffer *view)
{
    if (view->obj != NULL) PyBuffer_Release(view);
    view->buf = NULL;
    view->len = 0;
}

/* A word, or NULL. */
static inline word *word_at(const Py_buffer *view, word index)
{
    return index < (word)view->len / sizeof(word) ? (word *)view->buf + index : NULL;
}

static PyObject *value_or_none(PyObject *value)
{
    value = value == NULL ? Py_None : value;
    Py_INCREF(value);
    return value;
}

static PyObject *get_memory(Head *self, void *second)
{
    return value_or_none(self->memory[second != NULL]);
}

static int set_memory(Head *self, PyObject *value, void *second)
{
    PyObject *before = self->memory[second != NULL];
    Py_buffer view = self->views[second != NULL];
    Py_XINCREF(value);
    self->memory[second != NULL] = value;
    get_bytes(value, &self->views[second != NULL]);
    let_go(&view);
    Py_XDECREF(before);
    return 0;
}

/* Whether an object is of a type of this module: the one that has these methods. */
static int is_a(PyObject *value, const PyMethodDef *methods)
{
    PyTypeObject *type = value == NULL ? NULL : Py_TYPE(value);
    while (type != NULL && PyType_GetSlot(type, Py_tp_methods) != methods) {
        type = PyType_GetSlot(type, Py_tp_base);
    }
    return type != NULL;
}

typedef struct {
    int index;
    const PyMethodDef *methods;
} Use;

static PyObject *get_used(Head *self, void *use)
{
    return value_or_none(self->uses[((Use *)use)->index]);
}

static int set_used(Head *self, PyObject *value, void *closure)
{
    Use *use = closure;
    PyObject *before = self->uses[use->index];
    value = value == Py_None ? NULL : value;
    Py_XINCREF(value);
    self->uses[use->index] = value;
    self->known[use->index] = is_a(value, use->methods) ? value : NULL;
    Py_XDECREF(before);
    return 0;
}

static int traverse(Head *self, visitproc visit, void *arg)
{
    Py_VISIT(OBJECT(Py_TYPE(OBJECT(self))));
    for (int i = 0; i < 2; i++) Py_VISIT(self->memory[i]);
    for (int i = 0; i < 3; i++) Py_VISIT(self->uses[i]);
    for (int i = 0; i < 2; i++) Py_VISIT(self->kept[i]);
    return 0;
}

static int clear(Head *self)
{
    set_memory(self, NULL, NULL);
    set_memory(self, NULL, self);
    memset(self->known, 0, sizeof(self->known));
    for (int i = 0; i < 3; i++) Py_CLEAR(self->uses[i]);
    for (int i = 0; i < 2; i++) Py_CLEAR(self->kept[i]);
    return 0;
}

static void dealloc(Head *self)
{
    PyTypeObject *type = Py_TYPE(OBJECT(self));
    PyObject_GC_UnTrack(self);
    clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(OBJECT(type));
}

#define NUMBER(type, name, code) {#name, code, offsetof(type, name), 0, NULL}
#define HIDDEN(type, name, code) {"_" #name, code, offsetof(type, name), 0, NULL}
#define REF(name, index) \
    {name, T_OBJECT_EX, offsetof(Head, kept) + (index) * sizeof(PyObject *), 0, NULL}
#define MEMORY(name) {name, (getter)get_memory, (setter)set_memory, NULL, NULL}
#define MARK(name) {name, (getter)get_memory, (setter)set_memory, NULL, ""}
#define USED(name, use) {name, (getter)get_used, (setter)set_used, NULL, &(use)}
#define TYPE(name, size, methods, members, properties) \
    static PyType_Slot name##_slots[] = { \
        {Py_tp_dealloc, dealloc}, {Py_tp_traverse, traverse}, {Py_tp_clear, clear}, \
        {Py_tp_methods, methods}, {Py_tp_members, members}, {Py_tp_getset, properties}, \
        {0, NULL}}; \
    static PyType_Spec name##_spec = { \
        "shmkit._core." #name, size, 0, \
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, name##_slots}

#define FAST(function) ((PyCFunction)(void *)(function))
#define ARGUMENTS PyObject *const *args, Py_ssize_t count, PyObject *names

/* Call the Python method: what was asked for is not the common case. */
static PyObject *pass_on(void *self, const char *method, ARGUMENTS)
{
    PyObject *function = PyObject_GetAttrString(self, method), *result = NULL;
    PyObject *given = PyTuple_New(count), *named = names == NULL ? NULL : PyDict_New();
    Py_ssize_t more = names == NULL ? 0 : PyTuple_Size(names);
    int failed = function == NULL || given == NULL || (names != NULL && named == NULL);
    for (Py_ssize_t i = 0; !failed && i < count; i++) {
        failed = PyTuple_SetItem(given, i, value_or_none(args[i])) < 0;
    }
    for (Py_ssize_t i = 0; !failed && i < more; i++) {
        failed = PyDict_SetItem(named, PyTuple_GetItem(names, i), args[count + i]) < 0;
    }
    if (!failed) result = PyObject_Call(function, given, named);
    Py_XDECREF(function);
    Py_XDECREF(given);
    Py_XDECREF(named);
    return result;
}

/* -- Semaphore: a sem_t in a map --------------------------------------------------------------- */

typedef struct {
    Head head;
    Py_ssize_t at;
} Semaphore;

/* The word of a sem_t that the C library trusts, as it makes it: see segment/semaphores.py. */
static word flag_value;
#define FLAG_AT 1

static sem_t *sem_of(const Semaphore *self)
{
    if (self == NULL || self->at < 0 || self->at % 8 ||
        self->at > self->head.views[0].len - SEMAPHORE_ROOM) {
        return NULL;
    }
    word *here = (word *)self->head.views[0].buf + self->at / 8;
    store(here + FLAG_AT, flag_value);
    return (sem_t *)here;
}

static PyObject *semaphore_reset(Semaphore *self, PyObject *count)
{
    unsigned long value = PyLong_AsUnsignedLong(count);
    sem_t *here = sem_of(self);
    if (PyErr_Occurred()) return NULL;
    return PyLong_FromLong(here == NULL ? -1 : sem_init(here, 1, (unsigned int)value));
}

static PyObject *semaphore_try(Semaphore *self, PyObject *Py_UNUSED(none))
{
    sem_t *here = sem_of(self);
    return PyLong_FromLong(here == NULL ? -1 : sem_trywait(here));
}

static PyObject *semaphore_post(Semaphore *self, PyObject *Py_UNUSED(none))
{
    sem_t *here = sem_of(self);
    return PyLong_FromLong(here == NULL ? -1 : sem_post(here));
}

static PyObject *semaphore_value(Semaphore *self, PyObject *Py_UNUSED(none))
{
    int value = 0;
    sem_t *here = sem_of(self);
    if (here != NULL) sem_getvalue(here, &value);
    return PyLong_FromLong(value);
}

#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 30)
#define WAIT_CLOCK CLOCK_MONOTONIC
#define wait_until(here, until) sem_clockwait(here, CLOCK_MONOTONIC, until)
#else
#define WAIT_CLOCK CLOCK_REALTIME /* setting the time of day may stretch one slice, and no more */
#define wait_until(here, until) sem_timedwait(here, until)
#endif

/* Wait without the GIL: 1 if it was lowered, 0 if not, -1 if a signal handler raised; then it was
 * not. */
static int semaphore_sleep(Semaphore *self, double seconds)
{
    sem_t *here = sem_of(self);
    struct timespec until;
    int error;
    if (here == NULL) return 0;
    clock_gettime(WAIT_CLOCK, &until);
    seconds = seconds > 0 ? (seconds < 1e6 ? seconds : 1e6) : 0;
    until.tv_sec += (time_t)seconds;
    until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    Py_INCREF(OBJECT(self)); /* and with it the memory */
    Py_BEGIN_ALLOW_THREADS
    error = wait_until(here, &until) == 0 ? 0 : errno;
    Py_END_ALLOW_THREADS
    Py_DECREF(OBJECT(self));
    return error == EINTR && PyErr_CheckSignals() < 0 ? -1 : error == 0;
}

static PyObject *semaphore_wait(Semaphore *self, PyObject *seconds)
{
    double number = PyFloat_AsDouble(seconds);
    int got = PyErr_Occurred() ? -1 : semaphore_sleep(self, number);
    return got < 0 ? NULL : PyLong_FromLong(got - 1);
}

static PyMethodDef semaphore_methods[] = {
    {"_reset", (PyCFunction)semaphore_reset, METH_O, "Make it what it is at first."},
    {"_try", (PyCFunction)semaphore_try, METH_NOARGS, "0: it was lowered. -1: it is 0."},
    {"_post", (PyCFunction)semaphore_post, METH_NOARGS, "0: it was raised. -1: it is full."},
    {"_wait", (PyCFunction)semaphore_wait, METH_O, "`_try` that waits some seconds."},
    {"_value", (PyCFunction)semaphore_value, METH_NOARGS, "The count at this moment."},
    {0},
};
static PyMemberDef semaphore_members[] = {HIDDEN(Semaphore, at, T_PYSSIZET), {0}};
static PyGetSetDef semaphore_properties[] = {MEMORY("_memory"), {0}};
TYPE(Semaphore, sizeof(Semaphore), semaphore_methods, semaphore_members, semaphore_properties);

/* -- MutexCore --------------------------------------------------------------------------------- */

typedef struct {
    Head head; /* the memory: this participant's words at the lock */
} MutexCore;

static inline word *place_of(const MutexCore *self)
{
    return word_at(self->head.views, LOCK_WORDS - 1) == NULL ? NULL : self->head.views[0].buf;
}

/* 1: INSIDE. 0: IDLE, after so many yields the token was not there. -1: this is no common case. */
static int mutex_try(MutexCore *self, int yields)
{
    word *place = place_of(self);
    sem_t *here = sem_of(self->head.known[0]);
    int failed;
    if (place == NULL || here == NULL || load(place + PHASE) != IDLE) return -1;
    store(place + PHASE, ENTERING); /* step: mutex.entering */
    for (;;) {
        failed = sem_trywait(here); /* step: mutex.take */
        if (!failed || yields-- == 0) break;
        count_up(place + TICKS); /* step: mutex.tick */
        sched_yield();
    }
    if (failed) {
        store(place + PHASE, IDLE); /* step: mutex.give_up */
        return 0;
    }
    store(place + PHASE, INSIDE); /* step: mutex.inside */
    count_up(place + ENTRIES); /* step: mutex.count */
    return 1;
}

static int mutex_give(MutexCore *self)
{
    word *place = place_of(self);
    sem_t *here = sem_of(self->head.known[0]);
    if (place == NULL || here == NULL || load(place + PHASE) != INSIDE) return -1;
    store(place + PHASE, LEAVING); /* step: mutex.leaving */
    sem_post(here); /* step: mutex.post */
    store(place + PHASE, IDLE); /* step: mutex.idle */
    return 0;
}

static PyObject *mutex_acquire(MutexCore *self, ARGUMENTS)
{
    /* With arguments it may have to end soon: Python sees to that. */
    int yields = count == 0 && names == NULL ? YIELDS : 0;
    if (mutex_try(self, yields) > 0) return value_or_none(self->head.kept[0]);
    return pass_on(self, "_plain_acquire", args, count, names);
}

static PyObject *mutex_release(MutexCore *self, PyObject *Py_UNUSED(none))
{
    if (mutex_give(self) == 0) return Py_NewRef(Py_None);
    return pass_on(self, "_plain_release", NULL, 0, NULL);
}

static PyMethodDef mutex_methods[] = {
    {"acquire", FAST(mutex_acquire), METH_FASTCALL | METH_KEYWORDS, DOC_MutexCore_acquire},
    {"release", (PyCFunction)mutex_release, METH_NOARGS, DOC_MutexCore_release},
    {0},
};
static PyMemberDef mutex_members[] = {REF("_yes", 0), {0}};
static Use semaphore_use = {0, semaphore_methods};
static PyGetSetDef mutex_properties[] = {
    MEMORY("_place"), USED("_semaphore", semaphore_use), {0}};
TYPE(MutexCore, sizeof(MutexCore), mutex_methods, mutex_members, mutex_properties);

/* -- LockCore ---------------------------------------------------------------------------------- */

typedef struct {
    Head head;
    Py_ssize_t waiting; /* threads of this handle that wait for a release */
    char inside;        /* a thread is in a call, with the guard */
} LockCore;

/* Whether these arguments may be: a block and a timeout. Python says what is wrong with others. */
static int may_be(ARGUMENTS)
{
    Py_ssize_t more = names == NULL ? 0 : PyTuple_Size(names);
    for (Py_ssize_t i = 0; i < more; i++) {
        PyObject *name = PyTuple_GetItem(names, i);
        if (PyUnicode_CompareWithASCIIString(name, "timeout") && (count > 0 ||
            PyUnicode_CompareWithASCIIString(name, "block"))) return 0;
    }
    for (Py_ssize_t i = 0; i < count + more; i++) {
        int is_number = PyLong_Check(args[i]) ||
            (PyFloat_Check(args[i]) && PyFloat_AsDouble(args[i]) == PyFloat_AsDouble(args[i]));
        if (!is_number && args[i] != Py_None) return 0;
    }
    return count + more <= 2;
}

static PyObject *lock_acquire(LockCore *self, ARGUMENTS)
{
    MutexCore *mutex = self->head.known[0];
    int plain = count == 0 && names == NULL, yields = plain ? YIELDS : 0;
    if (!plain && !may_be(args, count, names)) mutex = NULL;
    if (!self->inside && mutex != NULL && mutex_try(mutex, yields) > 0) {
        PyObject *call = self->head.kept[0];
        self->head.kept[0] = value_or_none(NULL); /* no call in Python has it */
        Py_XDECREF(call); /* a plain object: this runs no Python */
        return value_or_none(mutex->head.kept[0]);
    }
    return pass_on(self, "_plain_acquire", args, count, names);
}

static PyObject *lock_release(LockCore *self, ARGUMENTS)
{
    MutexCore *mutex = self->head.known[0];
    (void)args, (void)count, (void)names; /* those of __exit__ */
    if (!self->inside && !self->waiting && mutex != NULL && mutex_give(mutex) == 0) {
        return Py_NewRef(Py_None);
    }
    return pass_on(self, "_plain_release", NULL, 0, NULL);
}

static PyMethodDef lock_methods[] = {
    {"acquire", FAST(lock_acquire), METH_FASTCALL | METH_KEYWORDS, DOC_Lock_acquire},
    {"release", FAST(lock_release), METH_FASTCALL | METH_KEYWORDS, DOC_Lock_release},
    {"__enter__", FAST(lock_acquire), METH_FASTCALL | METH_KEYWORDS, DOC_Lock_enter},
    {"__exit__", FAST(lock_release), METH_FASTCALL | METH_KEYWORDS, DOC_Lock_exit},
    {0},
};
static PyMemberDef lock_members[] = {
    HIDDEN(LockCore, waiting, T_PYSSIZET), HIDDEN(LockCore, inside, T_BOOL), REF("_call", 0), {0}};
static Use mutex_use = {0, mutex_methods};
static PyGetSetDef lock_properties[] = {USED("_mutex", mutex_use), {0}};
TYPE(LockCore, sizeof(LockCore), lock_methods, lock_members, lock_properties);

/* -- BellCore: of a doorbell and of an eventcount ---------------------------------------------- */

typedef struct {
    Head head; /* the memory: the segment as words */
    word flag, state, glances, sleeps;
    int spins;
    char shared; /* a doorbell: several may sleep here */
    char counts; /* an eventcount: the word behind the flag says how often it was rung */
} BellCore;

/* The semaphore to sleep on, or NULL: Python goes on. A forked child may have put others there. */
static Semaphore *semaphore_of(BellCore *self, word times)
{
    PyObject *opened = self->head.kept[0], *names = self->head.kept[1], *name, *found = NULL;
    if (opened != NULL && PyDict_Check(opened) && names != NULL && PyTuple_Check(names)) {
        name = PyTuple_GetItem(names, (Py_ssize_t)(times & 1) % PyTuple_Size(names));
        found = PyDict_GetItemWithError(opened, name);
    }
    return is_a(found, semaphore_methods) ? (Semaphore *)found : NULL;
}

/* Whether a word is as it was seen, and the state READY. Of memory that was closed it is not. */
static int is_unchanged(BellCore *self, word index, word seen)
{
    word *at = word_at(self->head.views, index), *state = word_at(self->head.views, self->state);
    return at != NULL && state != NULL && load(at) == seen && load(state) == READY;
}

/* 1 if a word changed while it was looked at, 0 if not, -1 if there is no such word. */
static int bell_look(BellCore *self, word index, word seen)
{
    word *at = word_at(self->head.views, index);
    int spins = self->spins, changed = 0;
    for (int spin = 0; at != NULL && spin < spins; spin++) {
        if (load(at) != seen) {
            self->spins = 2 * spins < MOST_SPINS ? 2 * spins : MOST_SPINS;
            return 1;
        }
        pause_cpu();
    }
    int fewer = spins / 2 > FEWEST_SPINS ? spins / 2 : FEWEST_SPINS;
    self->spins = ++self->glances % 64 ? fewer : MOST_SPINS;
    Py_buffer pin; /* another thread may close it meanwhile */
    get_bytes(self->head.memory[0], &pin);
    at = word_at(&pin, index);
    if (at != NULL) {
        Py_BEGIN_ALLOW_THREADS
        double end = now() + YIELDING;
        do {
            sched_yield();
            changed = load(at) != seen;
        } while (!changed && now() <= end);
        Py_END_ALLOW_THREADS
    }
    let_go(&pin);
    return at == NULL ? -1 : changed;
}

static PyObject *bell_glance(BellCore *self, PyObject *args)
{
    unsigned long long index, seen;
    if (!PyArg_ParseTuple(args, "KK", &index, &seen)) return NULL;
    int changed = bell_look(self, index, seen);
    if (changed < 0) PyErr_SetString(PyExc_IndexError, "index out of bounds on dimension 1");
    return changed < 0 ? NULL : PyBool_FromLong(changed);
}

/* The word behind the flag, which counts rings, of a bell that counts; else NULL. */
static inline word *count_of(const BellCore *self)
{
    return self->counts ? word_at(self->head.views, self->flag + 1) : NULL;
}

static PyObject *bell_ring(BellCore *self, PyObject *Py_UNUSED(none))
{
    word *flag = word_at(self->head.views, self->flag), *count = count_of(self);
    if (flag != NULL && !load(flag)) return Py_NewRef(Py_None);
    word times = count != NULL ? load(count) : 0;
    sem_t *here = sem_of(semaphore_of(self, times));
    if (flag == NULL || here == NULL) return pass_on(self, "_plain_ring", NULL, 0, NULL);
    store(flag, 0); /* step: bell.clear */
    if (count != NULL) {
        store(count, times + 1); /* step: bell.count */
    }
    sem_post(here); /* step: bell.post */
    return Py_NewRef(Py_None);
}

static PyObject *bell_doze(BellCore *self, ARGUMENTS)
{
    word *flag = word_at(self->head.views, self->flag), *counted = count_of(self);
    word times = counted != NULL ? load(counted) : 0;
    Semaphore *semaphore = semaphore_of(self, times);
    if (count != 3 || names != NULL || flag == NULL || semaphore == NULL) {
        return pass_on(self, "_plain_doze", args, count, names);
    }
    word index = PyLong_AsUnsignedLongLong(args[0]), seen = PyLong_AsUnsignedLongLong(args[1]);
    double seconds = PyFloat_AsDouble(args[2]);
    if (PyErr_Occurred()) return NULL;
    store(flag, 1); /* step: bell.flag */
    fence_all(); /* step: bell.fence */
    if (!is_unchanged(self, index, seen) || seconds <= 0) return Py_NewRef(Py_False);
    self->sleeps++;
    Py_INCREF(OBJECT(semaphore));
    int rung = semaphore_sleep(semaphore, seconds); /* step: bell.sleep */
    flag = word_at(self->head.views, self->flag);
    counted = count_of(self);
    if (rung > 0 && self->shared && flag != NULL) {
        store(flag, 1); /* step: bell.flag_again */
        fence_all(); /* step: bell.fence_again */
    }
    if (rung > 0 && counted != NULL && load(counted) != times) {
        sem_t *here = sem_of(semaphore);
        if (here != NULL) {
            sem_post(here); /* step: bell.pass_on */
        }
    }
    Py_DECREF(OBJECT(semaphore));
    return rung < 0 ? NULL : PyBool_FromLong(rung);
}

static PyMethodDef bell_methods[] = {
    {"glance", (PyCFunction)bell_glance, METH_VARARGS, DOC_BellCore_glance},
    {"doze", FAST(bell_doze), METH_FASTCALL | METH_KEYWORDS, DOC_BellCore_doze},
    {"ring", (PyCFunction)bell_ring, METH_NOARGS, DOC_BellCore_ring},
    {0},
};
static PyMemberDef bell_members[] = {
    HIDDEN(BellCore, flag, T_ULONGLONG), HIDDEN(BellCore, state, T_ULONGLONG),
    HIDDEN(BellCore, glances, T_ULONGLONG), NUMBER(BellCore, sleeps, T_ULONGLONG),
    HIDDEN(BellCore, spins, T_INT), HIDDEN(BellCore, shared, T_BOOL),
    HIDDEN(BellCore, counts, T_BOOL), REF("_semaphores", 0), REF("_names", 1), {0}};
static PyGetSetDef bell_properties[] = {MEMORY("_words"), {0}};
TYPE(BellCore, sizeof(BellCore), bell_methods, bell_members, bell_properties);

/* -- WriteCursor and ReadCursor ---------------------------------------------------------------- */

typedef struct {
    Head head; /* the memory: the map */
    word base, size, mask, largest, seen, notes, most, passed;
    word whole; /* a reader's own: from the head up to here frames are whole, and none is skipped */
    int state, idle;
} Cursor;

static inline word *words_of(const Cursor *self) { return self->head.views[0].buf; }

/* Have the side, also between processes; whether the steps here may be taken. */
static int enter(Cursor *self)
{
    if (self->state != FREE || self->head.views[0].len < PAGE) return 0;
    if (self->head.uses[0] == NULL) return 1;
    return self->head.known[0] != NULL && mutex_try(self->head.known[0], YIELDS) > 0;
}

static void leave(Cursor *self)
{
    if (self->head.known[0] != NULL) mutex_give(self->head.known[0]);
}

/* After a commit: wake the other side. 1, or -1 for an error, of a bell in Python. */
static int tell(Cursor *self, word flag)
{
    fence_or_joined();
    if (!load(words_of(self) + flag)) return 1;
    PyObject *bell = self->head.known[1], *result;
    if (bell != NULL) result = bell_ring((BellCore *)bell, NULL);
    else result = PyObject_CallMethod(self->head.uses[1], "ring", NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 1;
}

static inline int is_position(word position) { return (position & IMPOSSIBLE) == 0; }

static inline word step_of(word size) { return (size + 31) & ~(word)15; }

/* Whether positions of both sides may be, with something between them and no more than all. */
static inline int is_between(const Cursor *self, word low, word high)
{
    return high - low >= 16 && high - low <= self->size;
}

/* The frame at a position, if so many bytes of it are in the map, behind the header; else NULL. */
static inline word *frame_at(const Cursor *self, word position, word step)
{
    word at = self->base + (position & self->mask), length = (word)self->head.views[0].len;
    if (at % 16 || at < PAGE || at > length || step > length - at) return NULL;
    return words_of(self) + at / 8;
}

/* How many objects have left: see count_passed. As counted before, if they are too fast. */
static word count_passed(const word *words, word before)
{
    for (int tries = 10; tries > 0; tries--) {
        word holds = load(words + GET_NOTES);
        const word *at = words + GET_NOTES + 1 + 2 * (holds & 1);
        word noted = load(at), count = load(at + 1), head = load(words + HEAD);
        if (load(words + GET_NOTES) == holds && load(at) == noted) return count + (noted != head);
    }
    return before;
}

/* Note an object that is about to pass a side: see Cursor.note. Whether it may. */
static int note(Cursor *self, word position)
{
    word *words = words_of(self), holds = load(words + self->notes) & 1;
    word *at = words + self->notes + 1 + 2 * holds;
    word count = (load(at + 1) + (load(at) != position)) & COUNTER;
    if (self->most && count - self->passed >= self->most) {
        self->passed = count_passed(words, self->passed);
        if (count - self->passed >= self->most) return 0;
    }
    at = words + self->notes + 3 - 2 * holds;
    store(at, position); /* step: count.position */
    store(at + 1, count); /* step: count.number */
    store(words + self->notes, 1 - holds); /* step: count.switch */
    return 1;
}

/* The tail, if the steps of a put may be taken; else IMPOSSIBLE. */
static inline word writable(const word *words)
{
    word tail = load(words + TAIL);
    int may = is_position(tail) && load(words + SKIP) != tail && load(words + STATE) == READY;
    return may ? tail : IMPOSSIBLE;
}

/* Where a frame at `at` would end; `at` if there is no room for it. */
static word room_for(Cursor *self, word at, word size)
{
    word end = at + step_of(size);
    if (size > self->largest || size > self->size || end > (at | self->mask) + 1) return at;
    if (!is_between(self, self->seen, end)) {
        word head = load(words_of(self) + HEAD);
        if (!is_position(head) || !is_between(self, head, end)) return at;
        self->seen = head;
    }
    return frame_at(self, at, end - at) == NULL ? at : end;
}

static inline void write_frame(Cursor *self, word at, const char *bytes, word size)
{
    word *frame = frame_at(self, at, FRAME_HEADER);
    store(frame, size); /* step: put.header */
    memcpy(frame + FRAME_HEADER / 8, bytes, size); /* step: put.payload */
}

/* 1 if it was put, 0 if this is no common case, -1 for an error. */
static int put_frame(Cursor *self, const char *bytes, word size)
{
    int done = 0;
    if (size >= LARGE_COPY || !enter(self)) return 0;
    word *words = words_of(self), tail = writable(words);
    word end = tail == IMPOSSIBLE ? tail : room_for(self, tail, size);
    if (end != tail && (!self->notes || note(self, tail))) {
        write_frame(self, tail, bytes, size);
        store(words + TAIL, end); /* step: put.tail */
        done = 1;
    }
    leave(self);
    return done ? tell(self, DATA_BELL) : 0; /* step: put.bell */
}

/* The same, with an object that has a buffer. */
static int put_object(Cursor *self, PyObject *frame)
{
    Py_buffer view;
    if (PyBytes_CheckExact(frame)) {
        return put_frame(self, PyBytes_AsString(frame), (word)PyBytes_Size(frame));
    }
    if (PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        return 0;
    }
    int done = put_frame(self, view.buf, (word)view.len);
    PyBuffer_Release(&view);
    return done;
}

static PyObject *writer_put(Cursor *self, PyObject *frame)
{
    int done = put_object(self, frame);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *writer_put_many(Cursor *self, PyObject *args)
{
    PyObject *frames;
    Py_ssize_t first, number;
    if (!PyArg_ParseTuple(args, "On", &frames, &first)) return NULL;
    for (number = 0; first == 0 && number < PyList_Size(frames); number++) {
        PyObject *frame = PyList_GetItem(frames, number);
        if (!PyBytes_CheckExact(frame) || (word)PyBytes_Size(frame) > self->largest) {
            return PyLong_FromLong(0); /* all are checked before the first goes in */
        }
    }
    number = first;
    if (!self->notes && enter(self)) {
        word *words = words_of(self), tail = writable(words), at = tail, end;
        for (; tail != IMPOSSIBLE && number < PyList_Size(frames); number++, at = end) {
            PyObject *frame = PyList_GetItem(frames, number);
            if (!PyBytes_CheckExact(frame) || PyBytes_Size(frame) >= LARGE_COPY) break;
            end = room_for(self, at, (word)PyBytes_Size(frame));
            if (end == at) break;
            write_frame(self, at, PyBytes_AsString(frame), (word)PyBytes_Size(frame));
        }
        if (at != tail) {
            store(words + TAIL, at); /* step: put.tail */
        }
        leave(self);
    }
    if (number > first && tell(self, DATA_BELL) < 0) return NULL; /* step: put.bell */
    return PyLong_FromSsize_t(number - first);
}

/* The size of the frame at `head`, if it is a plain one, and whole, and not large; else
 * IMPOSSIBLE. */
static inline word readable(Cursor *self, word head)
{
    word *words = words_of(self), *frame = frame_at(self, head, FRAME_HEADER);
    if (!is_between(self, head, self->whole)) {
        word tail = load(words + TAIL);
        if (!is_position(tail) || !is_between(self, head, tail)) return IMPOSSIBLE;
        /* After the tail, and only then: a skip is stored where the ring was empty, and lies in the
         * line that a producer writes. */
        if (load(words + SKIP) == head) return IMPOSSIBLE;
        self->whole = tail;
    }
    if (frame == NULL || !is_position(head)) return IMPOSSIBLE;
    word size = load(frame), end = head + step_of(size);
    /* With a flag or a kind in it, no frame is so large. */
    if (size >= LARGE_COPY || size > self->size || end > self->whole) return IMPOSSIBLE;
    if (end > (head | self->mask) + 1) return IMPOSSIBLE;
    return frame_at(self, head, end - head) == NULL ? IMPOSSIBLE : size;
}

/* Where frames go on, if the rest of the lap at `head` is skipped or filled; else IMPOSSIBLE. */
static word pass_lap_end(const Cursor *self, word head)
{
    word lap_end = (head | self->mask) + 1, *frame = frame_at(self, head, FRAME_HEADER);
    int is_skip = load(words_of(self) + SKIP) == head;
    int is_pad = frame != NULL && load(frame) == (PAD | (lap_end - head - FRAME_HEADER));
    return (is_skip || is_pad) && lap_end <= self->whole ? lap_end : IMPOSSIBLE;
}

static inline int is_open(const word *words)
{
    return load(words + STATE) == READY || load(words + STATE) == SHUT;
}

static PyObject *bytes_at(const Cursor *self, word at, word size)
{
    const word *frame = frame_at(self, at, FRAME_HEADER);
    return PyBytes_FromStringAndSize((const char *)(frame + FRAME_HEADER / 8), (Py_ssize_t)size);
}

/* The oldest frame; NULL without an error if this is no common case. */
static PyObject *get_frame(Cursor *self)
{
    PyObject *frame = NULL;
    if (!enter(self)) return NULL;
    word *words = words_of(self), *mark = word_at(&self->head.views[1], 0);
    word head = load(words + HEAD);
    word size = is_open(words) ? readable(self, head) : IMPOSSIBLE;
    if (size != IMPOSSIBLE && (!self->notes || note(self, head))) {
        frame = bytes_at(self, head, size); /* step: get.copy */
        if (frame != NULL && mark != NULL) {
            store(mark, head + step_of(size)); /* step: get.mark */
        }
        if (frame != NULL) {
            store(words + HEAD, head + step_of(size)); /* step: get.head */
        }
    }
    leave(self);
    if (frame != NULL && tell(self, SPACE_BELL) < 0) Py_CLEAR(frame); /* step: get.bell */
    return frame;
}

static PyObject *reader_get(Cursor *self, PyObject *Py_UNUSED(none))
{
    PyObject *frame = get_frame(self);
    return frame != NULL || PyErr_Occurred() ? frame : value_or_none(NULL);
}

static PyObject *reader_get_many(Cursor *self, PyObject *most)
{
    Py_ssize_t left = PyLong_AsSsize_t(most);
    PyObject *frames = PyErr_Occurred() ? NULL : PyList_New(0);
    if (frames == NULL) return NULL;
    if (!self->notes && self->head.views[1].buf == NULL && enter(self)) {
        word *words = words_of(self), head = load(words + HEAD), last = load(words + TAIL), size;
        int done = is_open(words) && is_position(head) && is_position(last);
        self->whole = last; /* a producer that keeps up keeps it no longer */
        if (done && head != last && load(words + SKIP) == head) {
            done = (head = pass_lap_end(self, head)) != IMPOSSIBLE;
        }
        while (done && left > 0 && head != last) {
            size = readable(self, head);
            if (size == IMPOSSIBLE) {
                done = (head = pass_lap_end(self, head)) != IMPOSSIBLE;
                continue;
            }
            PyObject *frame = bytes_at(self, head, size); /* step: get.copy */
            done = frame != NULL && PyList_Append(frames, frame) == 0;
            Py_XDECREF(frame);
            head += step_of(size);
            left--;
        }
        done = done && PyList_Size(frames) > 0;
        if (done) {
            store(words + HEAD, head); /* step: get.head */
        } else if (!PyErr_Occurred()) {
            PyList_SetSlice(frames, 0, PyList_Size(frames), NULL); /* the careful code takes all */
        }
        if (!done) self->whole = load(words + HEAD); /* which may be skipped */
        leave(self);
    }
    int got = PyErr_Occurred() ? -1 : PyList_Size(frames) > 0;
    if (got > 0) got = tell(self, SPACE_BELL); /* step: get.bell */
    if (got > 0) return frames;
    Py_DECREF(frames);
    return got < 0 ? NULL : value_or_none(NULL);
}

static PyMethodDef writer_methods[] = {
    {"put", (PyCFunction)writer_put, METH_O, DOC_WriteCursor_put},
    {"put_many", (PyCFunction)writer_put_many, METH_VARARGS, DOC_WriteCursor_put_many},
    {0},
};
static PyMethodDef reader_methods[] = {
    {"get", (PyCFunction)reader_get, METH_NOARGS, DOC_ReadCursor_get},
    {"get_many", (PyCFunction)reader_get_many, METH_O, DOC_ReadCursor_get_many},
    {0},
};
static PyMemberDef cursor_members[] = {
    NUMBER(Cursor, base, T_ULONGLONG), NUMBER(Cursor, size, T_ULONGLONG),
    NUMBER(Cursor, mask, T_ULONGLONG), NUMBER(Cursor, largest, T_ULONGLONG),
    NUMBER(Cursor, seen, T_ULONGLONG), NUMBER(Cursor, notes, T_ULONGLONG),
    NUMBER(Cursor, most, T_ULONGLONG), NUMBER(Cursor, passed, T_ULONGLONG),
    NUMBER(Cursor, state, T_INT), NUMBER(Cursor, idle, T_INT), {0}};
static Use bell_use = {1, bell_methods};
static PyGetSetDef cursor_properties[] = {
    MEMORY("data"), MARK("mark"), USED("mutex", mutex_use), USED("bell", bell_use), {0}};
TYPE(WriteCursor, sizeof(Cursor), writer_methods, cursor_members, cursor_properties);
TYPE(ReadCursor, sizeof(Cursor), reader_methods, cursor_members, cursor_properties);

/* -- RingCore ---------------------------------------------------------------------------------- */

/* Whether the argument with a number, by name or not, is a bool: as a timeout it is an error. */
static int is_bool(ARGUMENTS, Py_ssize_t number)
{
    Py_ssize_t all = count + (names != NULL ? PyTuple_Size(names) : 0);
    return all > number && (args[number] == Py_True || args[number] == Py_False);
}

static PyObject *ring_put(Head *self, ARGUMENTS)
{
    int may = count > 0 && self->known[0] != NULL && !is_bool(args, count, names, 1);
    int done = may ? put_object(self->known[0], args[0]) : 0;
    if (done == 0) return pass_on(self, "_plain_put", args, count, names);
    return done < 0 ? NULL : value_or_none(NULL);
}

static PyObject *ring_get(Head *self, ARGUMENTS)
{
    Cursor *reader = self->known[1];
    BellCore *bell = self->known[2];
    int may = reader != NULL && !is_bool(args, count, names, 0);
    PyObject *frame = may ? get_frame(reader) : NULL;
    int may_wait = names == NULL && (count == 0 || args[0] == Py_None);
    if (frame == NULL && !PyErr_Occurred() && may_wait && bell != NULL && reader != NULL &&
        reader->state == FREE && reader->head.views[0].len >= PAGE) {
        word tail = load(words_of(reader) + TAIL);
        /* A frame may be microseconds away. */
        if (load(words_of(reader) + HEAD) == tail && bell_look(bell, TAIL, tail) > 0) {
            frame = get_frame(reader);
        }
    }
    if (frame != NULL || PyErr_Occurred()) return frame;
    return pass_on(self, "_plain_get", args, count, names);
}

static PyMethodDef ring_methods[] = {
    {"put", FAST(ring_put), METH_FASTCALL | METH_KEYWORDS, DOC_Ring_put},
    {"get", FAST(ring_get), METH_FASTCALL | METH_KEYWORDS, DOC_Ring_get},
    {0},
};
static Use writer_use = {0, writer_methods}, reader_use = {1, reader_methods};
static Use data_bell_use = {2, bell_methods};
static PyMemberDef ring_members[] = {{0}};
static PyGetSetDef ring_properties[] = {
    USED("_writer", writer_use), USED("_reader", reader_use), USED("_data_bell", data_bell_use),
    {0}};
TYPE(RingCore, sizeof(Head), ring_methods, ring_members, ring_properties);

/* -- Exporter: the buffer protocol for a class of Python --------------------------------------- */

static int exporter_get(PyObject *self, Py_buffer *view, int flags)
{
    view->obj = NULL;
    PyObject *memory = PyObject_CallMethod(self, "_exported", NULL);
    int failed = memory == NULL ? -1 : PyObject_GetBuffer(memory, view, flags);
    Py_XDECREF(memory); /* view->obj keeps it */
    return failed;
}

static PyType_Slot Exporter_slots[] = {
    {Py_tp_doc, "A buffer: that of what its method `_exported` gives."},
    {Py_bf_getbuffer, exporter_get}, {0, NULL}};
static PyType_Spec Exporter_spec = {
    "shmkit._core.Exporter", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    Exporter_slots};

/* -- descriptors that a child must not have: see segment/presence.py ---------------------------- */

typedef struct {
    int number; /* 1 more than the descriptor; 0: free */
    dev_t device;
    ino_t inode;
} Descriptor;

typedef struct Descriptors {
    struct Descriptors *next;
    Descriptor slots[64];
} Descriptors;

static Descriptors descriptors;         /* changed with the GIL only; blocks are never freed */
static __thread int python_is_forking;  /* this thread: then Python's own hook sees to them */

/* In the child of any fork, of C code too: whatever is called here may be called there. Another
 * thread may have been changing a slot, so its number is stored last, and cleared first. */
static void close_in_child(void)
{
    struct stat status;
    for (Descriptors *block = python_is_forking ? NULL : &descriptors; block != NULL;
         block = __atomic_load_n(&block->next, __ATOMIC_ACQUIRE)) {
        for (size_t i = 0; i < 64; i++) {
            Descriptor *slot = &block->slots[i];
            int number = __atomic_load_n(&slot->number, __ATOMIC_ACQUIRE);
            slot->number = 0;
            /* The program may have closed it, and opened a file of its own at that number. */
            if (number && fstat(number - 1, &status) == 0 && status.st_dev == slot->device &&
                status.st_ino == slot->inode) {
                close(number - 1);
            }
        }
    }
}

/* The slot of a descriptor that leads to this file, or a free one for number 0. */
static Descriptor *slot_of(int number, unsigned long long device, unsigned long long inode)
{
    Descriptors *block = &descriptors;
    for (;; block = block->next) {
        for (size_t i = 0; i < 64; i++) {
            Descriptor *slot = &block->slots[i];
            int is_it = slot->device == (dev_t)device && slot->inode == (ino_t)inode;
            if (slot->number == number && (is_it || !number)) return slot;
        }
        if (block->next == NULL) break;
    }
    if (number) return NULL;
    Descriptors *more = calloc(1, sizeof(*more));
    __atomic_store_n(&block->next, more, __ATOMIC_RELEASE);
    return more == NULL ? NULL : &more->slots[0];
}

static PyObject *close_in_children(PyObject *Py_UNUSED(module), PyObject *descriptor)
{
    struct stat status;
    int fd = (int)PyLong_AsLong(descriptor);
    if (PyErr_Occurred()) return NULL;
    if (fd < 0 || fstat(fd, &status) < 0) return PyErr_SetFromErrno(PyExc_OSError);
    Descriptor *slot = slot_of(0, 0, 0);
    if (slot == NULL) return PyErr_NoMemory();
    slot->device = status.st_dev;
    slot->inode = status.st_ino;
    __atomic_store_n(&slot->number, fd + 1, __ATOMIC_RELEASE);
    return Py_NewRef(Py_None);
}

static PyObject *keep_in_children(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    unsigned long long device, inode;
    if (!PyArg_ParseTuple(args, "iKK", &fd, &device, &inode)) return NULL;
    Descriptor *slot = fd < 0 ? NULL : slot_of(fd + 1, device, inode);
    if (slot != NULL) __atomic_store_n(&slot->number, 0, __ATOMIC_RELEASE);
    return Py_NewRef(Py_None);
}

static PyObject *python_forks(PyObject *Py_UNUSED(module), PyObject *whether)
{
    python_is_forking = PyObject_IsTrue(whether) > 0;
    return Py_NewRef(Py_None);
}

/* -- the module -------------------------------------------------------------------------------- */

static PyObject *copy(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer to, from;
    if (!PyArg_ParseTuple(args, "w*y*", &to, &from)) return NULL;
    int fits = to.len == from.len;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        memcpy(to.buf, from.buf, (size_t)to.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&to);
    PyBuffer_Release(&from);
    if (fits) return Py_NewRef(Py_None);
    PyErr_SetString(PyExc_ValueError, "copy of another length");
    return NULL;
}

static PyObject *copied(PyObject *Py_UNUSED(module), PyObject *memory)
{
    Py_buffer from;
    if (PyObject_GetBuffer(memory, &from, PyBUF_SIMPLE) < 0) return NULL;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, from.len);
    char *to = bytes == NULL ? NULL : PyBytes_AsString(bytes);
    if (to != NULL) {
        Py_BEGIN_ALLOW_THREADS
        memcpy(to, from.buf, (size_t)from.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&from);
    return bytes;
}

static PyMethodDef functions[] = {
    {"copy", copy, METH_VARARGS, "Copy the bytes of one buffer into another, without the GIL."},
    {"copied", copied, METH_O, "The bytes of a buffer, copied without the GIL."},
    {"close_in_children", close_in_children, METH_O, "Close a descriptor in children that C forks."},
    {"keep_in_children", keep_in_children, METH_VARARGS, "No longer."},
    {"python_forks", python_forks, METH_O, "This thread is in os.fork(), whose hooks do it."},
    {0}};

static void in_child(void)
{
    join_fence_all();
    close_in_child();
}

static int fill_module(PyObject *module)
{
    static int has_hook; /* one for all interpreters of the process */
    union { sem_t semaphore; word words[SEMAPHORE_ROOM / sizeof(word)]; } sample = {0};
    if (sizeof(long) != 8 || sem_init(&sample.semaphore, 1, 0) < 0) {
        PyErr_SetString(PyExc_ImportError, "no process-shared semaphores of 64 bits here");
        return -1;
    }
    flag_value = sample.words[FLAG_AT];
    join_fence_all();
    if (!has_hook && pthread_atfork(NULL, NULL, in_child) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    has_hook = 1;
    PyType_Spec *specs[] = {&Semaphore_spec, &MutexCore_spec, &LockCore_spec, &BellCore_spec,
                            &WriteCursor_spec, &ReadCursor_spec, &RingCore_spec, &Exporter_spec};
    for (size_t i = 0; i < sizeof(specs) / sizeof(*specs); i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
        const char *name = strrchr(specs[i]->name, '.') + 1;
        int failed = type == NULL || PyModule_AddObjectRef(module, name, type) < 0;
        Py_XDECREF(type);
        if (failed) return -1;
    }
    return PyModule_AddStringConstant(module, "NUMBERS", NUMBERS);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill_module}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmkit._core",
    .m_doc = "The compiled core: see shmkit/core.py.",
    .m_methods = functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
