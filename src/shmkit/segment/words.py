"""Every byte of every layout: one table for each, and the numbers that the code uses made from it.

A segment is a header, the table of its participants, and data:

    0x000  what the creator writes once, the state, the format of the semaphores    HEADER
    0x080  words of the kind: a ring's tail and head, an event's flag, ...          RING, ...
    0x400  room for eight semaphores, each in a line of its own                     SEMAPHORES
    0x800  participants, a line each; then zeros up to a multiple of 4096           PARTICIPANT
    ...    the data                                                                 FRAME, ...

Little-endian throughout. A line is 128 bytes, two cache lines, and has one writer unless its table
says otherwise. A word is one aligned 8-byte store; code reaches it by its index in the segment seen
as 8-byte words (`memoryview.cast("Q")`). No other module has a number that is an offset, a magic, a
version, a kind or a lock byte. docs/layout.md is made from these tables:

    python -m shmkit.segment.words > docs/layout.md
"""

from __future__ import annotations

from typing import Final, NamedTuple

# And every constant below: the tables, the kinds, and the numbers made from them.
__all__ = ["KINDS", "TABLES", "Field", "Kind", "Table", "as_markdown"]


class Field(NamedTuple):
    """One field of a layout.

    Attributes:
        at: byte where it begins, counted from the table's own beginning.
        type: "u16", "u32", "u64", "N u64" for N of them, "N bytes", or what else it is.
        name: what the code calls it.
        writer: which process stores it.
        meaning: what it says.
    """

    at: int
    type: str
    name: str
    writer: str
    meaning: str


class Table(NamedTuple):
    """The fields of one layout, in the order of their bytes.

    Attributes:
        title: what it is the layout of.
        fields: its fields.
    """

    title: str
    fields: tuple[Field, ...]

    def at(self, name: str) -> int:
        """Byte where a field begins.

        Raises:
            KeyError: there is no such field.
        """
        for field in self.fields:
            if field.name == name:
                return field.at
        raise KeyError(f"{self.title} has no field {name!r}")

    def word(self, name: str) -> int:
        """Index of an 8-byte word.

        Raises:
            KeyError: there is no such field.
        """
        return self.at(name) // 8

    def format(self, first: str, last: str) -> str:
        """A format of `struct` for all fields from one to another, gaps included.

        Raises:
            KeyError: a field in between is no number and not of a fixed number of bytes.
        """
        codes, end = "<", self.at(first)
        for field in self.fields:
            if not self.at(first) <= field.at <= self.at(last):
                continue
            codes += "x" * (field.at - end) + _code(field.type)
            end = field.at + _size(field.type)
        return codes


_CODES: Final = {"u16": ("H", 2), "u32": ("I", 4), "u64": ("Q", 8)}


def _code(kind: str) -> str:
    count, _, unit = kind.partition(" ")
    return f"{int(count)}s" if unit == "bytes" else _CODES[kind][0]


def _size(kind: str) -> int:
    count, _, unit = kind.partition(" ")
    return int(count) if unit == "bytes" else _CODES[kind][1]


def _table(title: str, drawn: str) -> Table:
    """A table from its drawing: offset, type, name, writer and meaning, two blanks between them."""
    rows = (filter(None, map(str.strip, line.split("  "))) for line in drawn.strip().splitlines())
    return Table(title, tuple(Field(int(at, 16), *rest) for at, *rest in rows))


# -- the tables ------------------------------------------------------------------------------------

LINE: Final = 128  # bytes

HEADER: Final = _table(
    "The header of every segment",
    """
    0x000  8 bytes   magic             creator          SHMKIT, 1, 0; stored last where memory has a name first
    0x008  u16       version           creator          of all layouts together
    0x00a  u16       kind              creator          what lives here: the table of kinds
    0x00c  u16       flags             creator          of the kind
    0x010  u64       total             creator          bytes of the segment
    0x018  u64       data_offset       creator          byte where the data begins
    0x020  u64       data_size         creator          bytes of the data; a power of two for rings
    0x028  u64       participants      creator          how many participants there may be at a time
    0x030  16 bytes  incarnation       creator          random: tells it from its successors
    0x040  u64       boot              creator          hash of the boot id; for people
    0x048  u64       creator_pid       creator          process id; for people
    0x050  u64       creator_start     creator          start time in clock ticks; for people
    0x058  u64       created           creator          nanoseconds since 1970; for people
    0x060  u32       checksum          creator          CRC-32 of 0x008 to 0x05f
    0x068  u64       state             any participant  1 open, 2 shut down, 3 shut down at once, 4 corrupt
    0x070  u64       semaphore_format  the first in     C library and size of the semaphores; 0: none yet
    0x078  u64       semaphore_names   the first in     random part of their names, if they have any
    0x100  4 u64     deaths            a newcomer       for each of two roles: when the last of its dead attached, and its pid
    """,
)

RING: Final = _table(
    "Ring",
    """
    0x080  u64  tail        producer                        bytes committed since creation; only grows
    0x088  u64  skip        producer                        a consumer of an empty ring here goes on at the next lap
    0x090  u64  dropped     producer                        frames that a full ring did not take, or threw out
    0x180  u64  head        consumer                        bytes released since creation; only grows
    0x280  u64  data_bell   consumer sets, producer clears  a consumer may be asleep
    0x300  u64  space_bell  producer sets, consumer clears  a producer may be asleep
    """,
)

QUEUE: Final = _table(
    "Queue and JoinableQueue: a ring, and",
    """
    0x0c0  u64    put_notes    producer, with the put lock   which of the next two notes holds
    0x0c8  2 u64  put_note_0   producer, with the put lock   tail, and objects put before it
    0x0d8  2 u64  put_note_1   producer, with the put lock   the same
    0x1c0  u64    get_notes    consumer, with the get lock   which of the next two notes holds
    0x1c8  2 u64  get_note_0   consumer, with the get lock   head, and objects taken before it
    0x1d8  2 u64  get_note_1   consumer, with the get lock   the same
    0x200  u64    maxsize      creator                       most objects there may be; 0: no limit but room
    0x208  u64    always_open  creator                       1: a joiner's wait does not end with a shutdown
    0x210  u64    tasks_done   consumer, with the get lock   how often task_done was called
    0x218  u64    join_news    consumer, with the get lock   changes when joiners should look
    0x240  u64    done_bell    joiner sets, consumer clears  a joiner may be asleep
    """,
)

BROADCAST: Final = _table(
    "Broadcast",
    """
    0x080  u64  tail          publisher                      bytes published since creation; only grows
    0x088  u64  oldest        publisher                      position of the oldest whole frame; only grows
    0x280  u64  readers_bell  readers set, publisher clears  a reader may be asleep
    0x288  u64  readers_rung  publisher                      how often the bell was rung
    """,
)

LATEST: Final = _table(
    "Latest",
    """
    0x080  u64    version       writer                      number of the newest value; 0 before the first
    0x088  u64    size          creator                     bytes of the largest value
    0x090  4 u64  lengths       writer                      bytes of the value in each of four cells
    0x280  u64    readers_bell  readers set, writer clears  a reader may be asleep
    0x288  u64    readers_rung  writer                      how often the bell was rung
    """,
)

DICT: Final = _table(
    "SharedDict",
    """
    0x080  u64     root          writer, with the lock         number of the generation that counts; a write of it switches
    0x088  u64     writes        writer, with the lock         committed writes; the number of the last
    0x090  u64     live          writer, with the lock         entries that are there
    0x098  u64     dead          writer, with the lock         bytes of entries that were replaced or deleted
    0x0a0  u64     used          writer, with the lock         slots that are not empty
    0x0a8  u64     compactions   writer, with the lock         how often a generation followed another
    0x0b0  u64     unsettled     writer, with the lock         1 while a write goes on: what it was to count is counted anew
    0x180  16 u64  generations   writer, with the lock         of each of the last four, at its number modulo 4: start, size, slots, tail
    0x280  u64     readers_bell  waiters set, writer clears    a waiter may be asleep
    0x288  u64     readers_rung  writer, with the lock         how often the bell was rung
    """,
)

DICT_ENTRY: Final = _table(
    "An entry of a SharedDict, at a multiple of 8 in its generation",
    """
    0x000  u64    version     writer, with the lock  number of the write that made it
    0x008  u32    key_size    writer, with the lock  bytes of the key
    0x00c  u32    value_size  writer, with the lock  bytes of the value
    0x010  u32    checksum    writer, with the lock  CRC-32 of the rest
    0x014  u32    kind        writer, with the lock  of the value: 0 pickle, 1 bytes, 2 str, 3 int, 4 float, 5 array
    0x018  bytes  key         writer, with the lock  a letter for its type, and the key; the value follows
    """,
)

EVENT: Final = _table(
    "Event",
    """
    0x080  u64  is_set  any participant             1 while it is set
    0x088  u64  mark    any participant             a random number, another one for each set
    0x280  u64  bell    waiters set, setter clears  a waiter may be asleep
    """,
)

SEMAPHORE: Final = _table(
    "Semaphore",
    """
    0x080  u64  initial  creator                             the count it began with
    0x088  u64  count    any participant, with the lock      tokens that can be had; follows from the participants' words
    0x090  u64  news     any participant, with the lock      changes when waiters should look
    0x280  u64  bell     waiters set, a releaser clears      a waiter may be asleep
    """,
)

ONCE: Final = _table(
    "once",
    """
    0x080  u64       built   builder  0 not built, 1 bytes, 2 an array, 3 arrays by names; stored last
    0x088  u64       length  builder  of bytes; of the table of names, a Python literal before the arrays
    0x090  16 bytes  name    builder  random part of the name of the segment with the content
    """,
)

ARRAY: Final = _table(
    "SharedArray",
    """
    0x080  u32   text_length    creator  bytes of the description
    0x084  u32   text_checksum  creator  CRC-32 of the description
    0x088  text  text           creator  shape and dtype: a Python literal in ASCII, as .npy files have
    """,
)

SEMAPHORES: Final = _table(
    "The semaphores of a segment, 128 bytes each",
    """
    0x400  sem_t  data   any participant  consumers and readers sleep here; fan-outs alternate it with the next
    0x480  sem_t  space  any participant  producers sleep here; of fan-outs, the readers' second
    0x500  sem_t  put    any participant  token of the put lock; of a Lock, its own
    0x580  sem_t  get    any participant  token of the get lock
    0x600  sem_t  done   any participant  joiners sleep here
    """,
)

PARTICIPANT: Final = _table(
    "A participant, 128 bytes each from 0x800 on",
    """
    0x000  u64    pid       the participant  process id; for people and for error messages
    0x008  u64    start     the participant  start time in clock ticks; for people
    0x010  u64    attached  the participant  nanoseconds: tells it from the next owner of these 128 bytes
    0x018  u64    roles     the participant  bit 0: puts or writes; bit 1: gets
    0x020  6 u64  phases    the participant  for each of two locks: phase, ticks, entries
    0x050  u64    tokens    with the lock    of a semaphore: low half, tokens it holds; high half, tokens it made
    0x070  u64    pinned    the participant  of a SharedDict: the pages it has views of: first << 32 | last + 1; 0: none
    """,
)

FRAME: Final = _table(
    "A frame, at a multiple of 16 in the data",
    """
    0x000  u32    size      producer  bytes of the payload
    0x004  u16    kind      producer  0 bytes or a pickle; 1 encoded; 2 an object in overflow
    0x006  u16    flags     producer  1: only fills the ring up to its end
    0x008  u32    position  producer  of checked rings: position / 16; of a Broadcast: its number
    0x00c  u32    checksum  producer  of checked rings: CRC-32 of payload and header
    0x010  bytes  payload   producer  never goes around the end of the data
    """,
)

CALL_NOTE: Final = _table(
    "A worker's note of the call it has, 128 bytes each",
    """
    0x000  u64  ready    worker  1 once the initializer is done
    0x008  u64  taken    worker  the call it has, or had last
    0x010  u64  started  worker  the same, once its code may run
    """,
)

LABEL: Final = _table(
    "The label of an object in overflow: the payload of a frame of kind 2",
    """
    0x000  16 bytes  nonce      sender  random, the same as at the end of the object
    0x010  u64       start      sender  byte where the object begins
    0x018  u64       size       sender  bytes of the object
    0x020  u32       encoded    sender  1: as in a frame of kind 1; 0: a pickle
    0x024  u32       path_size  sender  bytes of the path; 0: the object is behind the ring's own data
    0x028  bytes     path       sender  of the spill file that the object is in
    """,
)

OVERFLOW: Final = _table(
    "Behind an object in overflow",
    """
    0x000  16 bytes  nonce  sender  random, the same as in its label
    0x010  8 bytes   magic  sender  SHMKIT, 2, 0
    """,
)

SPILL: Final = _table(
    "The first page of a spill file; objects follow it",
    """
    0x000  8 bytes  magic      its maker  SHMKIT, 3, 0
    0x008  u64      device     its maker  of the ring's memory
    0x010  u64      inode      its maker  the same
    0x018  u64      processes  its maker  inode of its namespace of process ids
    0x020  u32      url_size   its maker  bytes of the url
    0x024  bytes    url        its maker  of the ring
    """,
)

LOCK_BYTES: Final = _table(
    "Bytes that the kernel locks (open-file-description locks), counted from 2**62",
    """
    0x000  byte  door         newcomer, leaver, rescuer   entry lock: one at a time comes or goes
    0x002  byte  producer     the one producer or writer  held as long as the role is
    0x003  byte  consumer     the one consumer            held as long as the role is
    0x008  byte  rescue       a rescuer                   one for each lock
    0x040  byte  participant  the participant             one for each participant: held means alive
    """,
)

TABLES: Final = (
    HEADER,
    RING,
    QUEUE,
    BROADCAST,
    LATEST,
    DICT,
    DICT_ENTRY,
    EVENT,
    SEMAPHORE,
    ONCE,
    ARRAY,
    SEMAPHORES,
    PARTICIPANT,
    FRAME,
    CALL_NOTE,
    LABEL,
    OVERFLOW,
    SPILL,
    LOCK_BYTES,
)


class Kind(NamedTuple):
    """What may live in a segment.

    Attributes:
        number: as stored.
        noun: what messages call it.
        semaphores: names of the semaphores it uses, and the counts they start with.
        locks: which of them are the tokens of locks, by the index of the lock.
        control: it has no data, and its name goes with the last participant that leaves.
    """

    number: int
    noun: str
    semaphores: tuple[tuple[str, int], ...] = ()
    locks: tuple[str, ...] = ()
    control: bool = False


_BELLS: Final = (("data", 0), ("space", 0))
_RING: Final = (*_BELLS, ("put", 1), ("get", 1))

RING_KIND: Final = Kind(1, "ring", _RING, ("put", "get"))
BROADCAST_KIND: Final = Kind(2, "broadcast", _BELLS)
LATEST_KIND: Final = Kind(3, "latest", _BELLS)
OBJECT_RING_KIND: Final = Kind(8, "object ring", _RING, ("put", "get"))
QUEUE_KIND: Final = Kind(9, "queue", _RING, ("put", "get"))
JOINABLE_QUEUE_KIND: Final = Kind(10, "joinable queue", (*_RING, ("done", 0)), ("put", "get"))
CALLS_KIND: Final = Kind(11, "ring of calls", _RING, ("put", "get"))
RESULTS_KIND: Final = Kind(12, "ring of results", _RING, ("put", "get"))
LOCK_KIND: Final = Kind(16, "lock", (("put", 1),), ("put",), control=True)
EVENT_KIND: Final = Kind(17, "event", (("data", 0),), control=True)
SEMAPHORE_KIND: Final = Kind(18, "semaphore", (("data", 0), ("put", 1)), ("put",), control=True)
ONCE_KIND: Final = Kind(32, "once", (("put", 1),), ("put",), control=True)
ARRAY_KIND: Final = Kind(0x41, "shared array")
DICT_KIND: Final = Kind(0x42, "shared dict", (*_BELLS, ("put", 1)), ("put",))

KINDS: Final = {
    kind.number: kind
    for kind in (
        RING_KIND,
        BROADCAST_KIND,
        LATEST_KIND,
        OBJECT_RING_KIND,
        QUEUE_KIND,
        JOINABLE_QUEUE_KIND,
        CALLS_KIND,
        RESULTS_KIND,
        LOCK_KIND,
        EVENT_KIND,
        SEMAPHORE_KIND,
        ONCE_KIND,
        ARRAY_KIND,
        DICT_KIND,
    )
}

# -- what the code uses ----------------------------------------------------------------------------

MAGIC: Final = b"SHMKIT\x01\0"
VERSION: Final = 2
PAGE: Final = 4096  # the header is whole pages
LEAST_DATA: Final = 4096
MOST_PARTICIPANTS: Final = 1 << 16

# What the creator writes once: these fields as one `struct`, and their checksum.
FIXED: Final = HEADER.format("version", "created")
FIXED_AT: Final = HEADER.at("version")
CHECKSUM: Final = HEADER.format("checksum", "checksum")
CHECKSUM_AT: Final = HEADER.at("checksum")
OVERFLOW_MAGIC: Final = b"SHMKIT\x02\0"
OVERFLOW_NONCE: Final = OVERFLOW.at("magic")  # bytes
OVERFLOW_END: Final = OVERFLOW.format("nonce", "magic")
LABEL_HEAD: Final = LABEL.format("nonce", "path_size")
LABEL_PATH: Final = LABEL.at("path")  # in bytes
SPILL_MAGIC: Final = b"SHMKIT\x03\0"
SPILL_HEAD: Final = SPILL.format("magic", "url_size")
SPILL_URL: Final = SPILL.at("url")  # in bytes

STATE: Final = HEADER.word("state")
SEMAPHORE_FORMAT: Final = HEADER.word("semaphore_format")
SEMAPHORE_NAMES: Final = HEADER.word("semaphore_names")
DEATHS: Final = HEADER.word("deaths")

# The states.
READY: Final = 1
SHUT: Final = 2  # no more puts; what is there is read
CUT: Final = 3  # no more puts, no more gets
POISONED: Final = 4  # an invariant was seen broken

TAIL: Final = RING.word("tail")
SKIP: Final = RING.word("skip")
DROPPED: Final = RING.word("dropped")
HEAD: Final = RING.word("head")
DATA_BELL: Final = RING.word("data_bell")
SPACE_BELL: Final = RING.word("space_bell")

# Flags of a ring; bits 4 and 5 are an index into POLICIES.
CHECKED: Final = 1  # frames carry a checksum
MANY_PRODUCERS: Final = 2
MANY_CONSUMERS: Final = 4
POLICY_SHIFT: Final = 4
POLICIES: Final = ("block", "raise", "drop-new", "drop-oldest")

# Flag of a control page.
KEPT: Final = 1  # its name stays when its last user leaves

PUT_NOTES: Final = QUEUE.word("put_notes")
GET_NOTES: Final = QUEUE.word("get_notes")
MAXSIZE: Final = QUEUE.word("maxsize")
ALWAYS_OPEN: Final = QUEUE.word("always_open")
TASKS_DONE: Final = QUEUE.word("tasks_done")
JOIN_NEWS: Final = QUEUE.word("join_news")
DONE_BELL: Final = QUEUE.word("done_bell")

OLDEST: Final = BROADCAST.word("oldest")
READERS_BELL: Final = BROADCAST.word("readers_bell")

LATEST_VERSION: Final = LATEST.word("version")
LATEST_SIZE: Final = LATEST.word("size")
LATEST_LENGTHS: Final = LATEST.word("lengths")

DICT_ROOT: Final = DICT.word("root")
DICT_WRITES: Final = DICT.word("writes")
DICT_LIVE: Final = DICT.word("live")
DICT_DEAD: Final = DICT.word("dead")
DICT_USED: Final = DICT.word("used")
DICT_COMPACTIONS: Final = DICT.word("compactions")
DICT_UNSETTLED: Final = DICT.word("unsettled")
DICT_GENERATIONS: Final = DICT.word("generations")
DICT_MOST: Final = (1 << 32) - 1  # bytes of a key, and of a value
DICT_SUMMED: Final = "<QIII"  # version, key size, value size, kind: summed before key and value
SLOT_TAG: Final = 40  # bits of a slot below its tag: an eighth of the entry's offset
SLOT_DELETED: Final = 1
GENERATION_WORDS: Final = 4
GENERATIONS: Final = 4
DICT_ENTRY_HEAD: Final = DICT_ENTRY.format("version", "kind")
GROWS: Final = 1  # flags of a dict
VERIFIED: Final = 2  # a read compares the checksum

EVENT_SET: Final = EVENT.word("is_set")
EVENT_MARK: Final = EVENT.word("mark")
EVENT_BELL: Final = EVENT.word("bell")

SEMAPHORE_INITIAL: Final = SEMAPHORE.word("initial")
SEMAPHORE_COUNT: Final = SEMAPHORE.word("count")
SEMAPHORE_NEWS: Final = SEMAPHORE.word("news")
SEMAPHORE_BELL: Final = SEMAPHORE.word("bell")

ONCE_BUILT: Final = ONCE.word("built")
ONCE_LENGTH: Final = ONCE.word("length")
ONCE_NAME: Final = slice(ONCE.at("name"), ONCE.at("name") + 16)  # in bytes
BUILT_BYTES: Final = 1
BUILT_ARRAY: Final = 2
BUILT_MAPPING: Final = 3

ARRAY_DESCRIPTION: Final = ARRAY.format("text_length", "text_checksum")
ARRAY_TEXT_LENGTH: Final = ARRAY.at("text_length")  # in bytes
ARRAY_TEXT: Final = ARRAY.at("text")  # in bytes
FORTRAN: Final = 1  # flag of an array: the first index changes fastest

FRAME_HEADER: Final = FRAME.at("payload")  # bytes
SIZE_MASK: Final = 0xFFFFFFFF  # the size in word 0 of a frame
KIND_SHIFT: Final = 32
KIND_MASK: Final = 0xFFFF << KIND_SHIFT
PAD: Final = 1 << 48  # flag of a frame, as it stands in word 0

# Participants.
PARTICIPANTS_AT: Final = 0x800 // 8  # index of the first line's first word
LINE_WORDS: Final = LINE // 8
PID: Final = PARTICIPANT.word("pid")
START: Final = PARTICIPANT.word("start")
ATTACHED: Final = PARTICIPANT.word("attached")
ROLES: Final = PARTICIPANT.word("roles")
PHASES: Final = PARTICIPANT.word("phases")  # LOCK_WORDS for each of LOCKS locks
TOKENS: Final = PARTICIPANT.word("tokens")
TOKENS_HELD: Final = (1 << 32) - 1  # what of the word is those it holds
TOKENS_MADE: Final = 32  # bits by which those it made are shifted
PINNED: Final = PARTICIPANT.word("pinned")
PINNED_FIRST: Final = 32  # bits by which the first page is shifted
PINNED_END: Final = (1 << 32) - 1  # what of the word is the page behind the last
LOCKS: Final = 2
LOCK_WORDS: Final = 3
PHASE: Final = 0  # index among the words of one lock
TICKS: Final = 1
ENTRIES: Final = 2

# Phases of a participant at a lock: see core.py.
IDLE: Final = 0
ENTERING: Final = 1
INSIDE: Final = 2
LEAVING: Final = 3

# Roles, as bits of a participant's line.
WRITER_ROLE: Final = 0
READER_ROLE: Final = 1

SEMAPHORE_AT: Final = {field.name: field.at for field in SEMAPHORES.fields}  # in bytes
SEMAPHORE_ROOM: Final = LINE  # bytes that one may take

NOTE_WORDS: Final = LINE // 8  # of a worker
NOTE_READY: Final = CALL_NOTE.word("ready")
NOTE_TAKEN: Final = CALL_NOTE.word("taken")
NOTE_STARTED: Final = CALL_NOTE.word("started")

LOCK_BYTES_AT: Final = 1 << 62  # far behind any data
DOOR_BYTE: Final = LOCK_BYTES.at("door")
PRODUCER_BYTE: Final = LOCK_BYTES.at("producer")
CONSUMER_BYTE: Final = LOCK_BYTES.at("consumer")
RESCUE_BYTE: Final = LOCK_BYTES.at("rescue")
PARTICIPANT_BYTE: Final = LOCK_BYTES.at("participant")


def as_markdown() -> str:
    """The tables as a page of documentation: docs/layout.md."""
    out = [
        "# The bytes of a segment",
        "",
        "Made from the tables in `src/shmkit/segment/words.py`: change it there, then run",
        "`python -m shmkit.segment.words > docs/layout.md`.",
        "",
        (__doc__ or "").partition("\n\n")[2].partition("Little-endian")[0].rstrip(),
        "",
        "Little-endian. A word is one aligned 8-byte store.",
    ]
    for table in TABLES:
        out += ["", f"## {table.title}", "", "| offset | type | name | stored by | what it says |"]
        out.append("|---|---|---|---|---|")
        out += [
            f"| 0x{field.at:03x} | {field.type} | {field.name} | {field.writer} | {field.meaning} |"
            for field in table.fields
        ]
    out += ["", "## Kinds", "", "| number | what it is | semaphores, and their first counts |"]
    out.append("|---|---|---|")
    for kind in KINDS.values():
        semaphores = ", ".join(f"{name} {count}" for name, count in kind.semaphores)
        out.append(f"| {kind.number} | {kind.noun} | {semaphores or 'none'} |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(as_markdown())
