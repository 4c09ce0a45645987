"""The type of a pickled object, by following its pickle without running any of it.

The machine of `pickle` has a stack; each opcode says in `pickletools` what it takes from there and
what it leaves. Here the stack has names of types in place of objects. What a pickle would call or
import is a name, too, and no more than that.
"""

from __future__ import annotations

import pickletools
import warnings
from typing import Any, Final

__all__ = ["type_of"]

_UNKNOWN: Final = "object"
_LONGEST: Final = 200  # characters of a name: a pickle could make it ever longer
_MARK: Final = object()
_NAMES: Final = {
    "None": "NoneType",
    "int_or_bool": "int",
    "bytes_or_str": "str",
    "any": _UNKNOWN,
    "buffer": "bytes",  # what is large is outside of the pickle
}
_CALLS: Final = {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ"}
# They change the object below their arguments, and leave it where it is.
_KEEP_FIRST: Final = {"BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"}
_TUPLES: Final = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_BOOLS: Final = {"NEWTRUE", "NEWFALSE"}
# Functions that stand in a pickle for the type that they make.
_MAKERS: Final = {
    "numpy.core.multiarray._reconstruct": "numpy.ndarray",
    "numpy._core.multiarray._reconstruct": "numpy.ndarray",
    "numpy._core.numeric._frombuffer": "numpy.ndarray",
    "numpy.core.numeric._frombuffer": "numpy.ndarray",
    "shmkit.channels.objects.codec._itself": "numpy.ndarray",
    "shmkit.channels.objects.codec._view": "memoryview",
    "numpy.core.multiarray.scalar": "numpy.generic",
    "numpy._core.multiarray.scalar": "numpy.generic",
    "_codecs.encode": "bytes",
}


class _Name(str):
    """What stands for a class or function: what is made of it by a call."""

    __slots__ = ()


class _Text(str):
    """A text that may become a part of a name."""

    __slots__ = ()


class _Tuple(str):
    """A tuple, which may be the arguments of a call."""

    first: Any


def type_of(pickle: bytes) -> str:
    """The type of the object in a pickle, as "int" or "module.Class"; "object" if it is not told.

    Args:
        pickle: its first bytes; if it is cut off, the outermost object is told as far as it came.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that are none
            for opcode, argument, _ in pickletools.genops(pickle):
                if opcode.name == "STOP":
                    return _told(stack[-1])
                _step(opcode, argument, stack, memo)
    except (ValueError, IndexError, KeyError, OverflowError, AttributeError, EOFError):
        pass  # cut off, or no pickle at all: what pickletools raises for arbitrary bytes
    return _told(next((item for item in stack if item is not _MARK), _UNKNOWN))


def _told(item: Any) -> str:
    if isinstance(item, _Name):
        return "type"  # a class or a function itself
    return "str" if isinstance(item, _Text) else str(item) if item is not _MARK else _UNKNOWN


def _step(opcode: Any, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    name = opcode.name
    if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
        memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_MARK)
    elif name == "DUP":
        stack.append(stack[-1])
    elif name in _KEEP_FIRST:
        _take(opcode, stack, keep=1)
    else:
        taken = _take(opcode, stack)
        stack.extend(_result(opcode, argument, taken))


def _take(opcode: Any, stack: list[Any], keep: int = 0) -> list[Any]:
    before = opcode.stack_before
    if pickletools.markobject in before:
        at = len(stack) - 1 - stack[::-1].index(_MARK)
        at -= before.index(pickletools.markobject)
    else:
        at = len(stack) - len(before)
    if at < 0:
        raise IndexError("the stack is empty")
    taken = stack[at:]
    del stack[at + keep :]
    return taken


def _result(opcode: Any, argument: Any, taken: list[Any]) -> list[Any]:
    name = opcode.name
    if name == "STACK_GLOBAL":
        return [_Name(f"{taken[0]}.{taken[1]}"[:_LONGEST].removeprefix("builtins."))]
    if name in ("GLOBAL", "INST"):
        made = str(argument)[:_LONGEST].replace(" ", ".", 1).removeprefix("builtins.")
        return [_Name(made)] if name == "GLOBAL" else [made]
    if name in _CALLS:
        return [_made_by(*[item for item in taken if item is not _MARK][:2])]
    if name in _TUPLES:
        made_tuple = _Tuple("tuple")
        made_tuple.first = next((item for item in taken if item is not _MARK), None)
        return [made_tuple]
    if name in _BOOLS:
        return ["bool"]
    if isinstance(argument, str) and "UNICODE" in name:
        return [_Text(argument[:_LONGEST])]
    return [_NAMES.get(kind.name, kind.name) for kind in opcode.stack_after]


def _made_by(called: Any = None, arguments: Any = None) -> str:
    """The type that a call makes."""
    if not isinstance(called, _Name):
        return _UNKNOWN
    if called in _MAKERS:
        return _MAKERS[called]
    # A private function that is given a class makes an object of it, as copyreg's do.
    first = getattr(arguments, "first", None)
    if called.rpartition(".")[2].startswith("_") and isinstance(first, _Name):
        return str(first)
    return str(called)
