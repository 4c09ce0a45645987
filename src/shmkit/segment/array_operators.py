"""The operators of an array, for an object that `numpy` takes for one by its `__array__`.

`shared + 1` and `shared == x` give plain arrays of this process; `shared += 1` writes through, item
by item. A ufunc takes the object as its `out`, too.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["Operators"]

_COMPARED: Final = "lt le eq ne gt ge"
_BINARY: Final = "add sub mul matmul truediv floordiv mod pow lshift rshift and xor or"
_UNARY: Final = "neg pos abs invert"


def _array(value: Any) -> Any:
    return value.__array__() if isinstance(value, Operators) else value


def _compared(act: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: act(self.__array__(), _array(other))


def _reflected(act: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: act(other, self.__array__())


def _in_place(act: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def write(self: Any, other: Any) -> Any:
        self._writable()
        act(self.__array__(), _array(other))
        return self

    return write


def _unary(act: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: act(self.__array__())


def _operators() -> dict[str, Any]:
    """Every operator by its name: what numpy's NDArrayOperatorsMixin has, which needs numpy."""
    found: dict[str, Any] = {}
    for name in _COMPARED.split():
        found[f"__{name}__"] = _compared(getattr(operator, f"__{name}__"))
    for name in _BINARY.split():
        act = getattr(operator, f"__{name}__")
        found[f"__{name}__"] = _compared(act)
        found[f"__r{name}__"] = _reflected(act)
        found[f"__i{name}__"] = _in_place(getattr(operator, f"__i{name}__"))
    found["__divmod__"], found["__rdivmod__"] = _compared(divmod), _reflected(divmod)
    for name in _UNARY.split():
        found[f"__{name}__"] = _unary(getattr(operator, f"__{name}__"))
    for kind in (bool, int, float, complex):
        found[f"__{kind.__name__}__"] = _unary(kind)
    found["__index__"] = _unary(operator.index)
    return found


def _array_ufunc(_: Any, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """Call a ufunc with plain arrays on the same memory (NEP 13)."""
    out = options.get("out", ())
    if out:
        for one in out:
            if isinstance(one, Operators):
                one._writable()
        options["out"] = tuple(map(_array, out))
    if "where" in options:
        options["where"] = _array(options["where"])
    result = getattr(ufunc, method)(*map(_array, inputs), **options)
    if len(out) == 1:
        return out[0]  # the object, as a ufunc gives back the array that it was given
    if out:
        return tuple(
            given if given is not None else r for given, r in zip(out, result, strict=True)
        )
    return result


if TYPE_CHECKING:

    class Operators(NDArrayOperatorsMixin):
        """Operators over `__array__`; a subclass has `_writable`, which refuses or passes."""

        def __array__(self) -> Any: ...

        def _writable(self) -> None: ...

        def __array_ufunc__(self, *inputs: Any, **options: Any) -> Any: ...

else:

    class Operators:
        """Operators over `__array__`; a subclass has `_writable`, which refuses or passes."""

        __slots__ = ()

        __hash__ = None
        __array_ufunc__ = _array_ufunc

    for _name, _function in _operators().items():
        setattr(Operators, _name, _function)
