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
_DEEPEST: Final = 50  # tuples within tuples; both ways recurse


def encode_key(key: object, depth: int = 0) -> bytes:
    """Spell a key.

    Args:
        key: the key.
        depth: how many tuples it is in.

    Raises:
        TypeError: it is, or has in it, something else than str, bytes, int and tuple.
        ValueError: there are more than 50 tuples within tuples.
    """
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, int):
        return b"i" + key.to_bytes(key.bit_length() // 8 + 1, "little", signed=True)
    if isinstance(key, tuple):
        _check_depth(depth)
        items = [encode_key(item, depth + 1) for item in key]
        return b"t" + b"".join(len(item).to_bytes(_LENGTH, "little") + item for item in items)
    raise TypeError(
        f"a key of type {type(key).__name__}: a shared dict has str, bytes, int, and tuples of "
        "these as keys, which are the same bytes in every process"
    )


def decode_key(spelled: bytes, depth: int = 0) -> Key:
    """Give back the key.

    Args:
        spelled: the key, spelled.
        depth: how many tuples it is in.

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
        _check_depth(depth)
        items: list[Key] = []
        at = 0
        while at < len(rest):
            start = at + _LENGTH
            at = start + int.from_bytes(rest[at:start], "little")
            items.append(decode_key(rest[start:at], depth + 1))
        if at == len(rest):
            return tuple(items)
    raise ValueError(f"no key is spelled {spelled[:20]!r}")


def _check_depth(depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"a key of more than {_DEEPEST} tuples within tuples")
