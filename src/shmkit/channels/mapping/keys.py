"""Keys as bytes, one spelling for each, and back: a letter for the type, then the key.

b  bytes    as they are
s  str      UTF-8; lone surrogates too
i  int      little-endian, signed, in as few bytes as hold it; True is 1, as in a dict
t  tuple    of each item: its length as 4 bytes, and its own spelling
"""

from __future__ import annotations

from typing import Final

__all__ = ["Key", "decode_key", "encode_key"]

Key = str | bytes | int | tuple["Key", ...]

_LENGTH: Final = 4  # bytes


def encode_key(key: object) -> bytes:
    """Spell a key.

    Raises:
        TypeError: it is, or has in it, something else than str, bytes, int and tuple.
    """
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, int):
        return b"i" + key.to_bytes(key.bit_length() // 8 + 1, "little", signed=True)
    if isinstance(key, tuple):
        items = map(encode_key, key)
        return b"t" + b"".join(len(item).to_bytes(_LENGTH, "little") + item for item in items)
    raise TypeError(
        f"a key of type {type(key).__name__}: a shared dict has str, bytes, int, and tuples of "
        "these as keys, which are the same bytes in every process"
    )


def decode_key(spelled: bytes) -> Key:
    """Give back the key.

    Raises:
        ValueError: no key is spelled so.
    """
    kind, rest = spelled[:1], spelled[1:]
    if kind == b"s":
        return rest.decode("utf-8", "surrogatepass")
    if kind == b"b":
        return rest
    if kind == b"i":
        return int.from_bytes(rest, "little", signed=True)
    if kind == b"t":
        items: list[Key] = []
        while rest:
            end = _LENGTH + int.from_bytes(rest[:_LENGTH], "little")
            items.append(decode_key(rest[_LENGTH:end]))
            rest = rest[end:]
        return tuple(items)
    raise ValueError(f"no key is spelled {spelled[:20]!r}")
