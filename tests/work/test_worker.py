"""What a call is a pickle of, and what a worker makes of it."""

from __future__ import annotations

import copyreg
import functools
import multiprocessing
import pickle
import sys
import types
from typing import Any

import pytest

from shmkit import ProcessPoolExecutor
from shmkit.channels.objects.codec import encode
from shmkit.work.worker import _call_in, task_of, unpack
from tests.work import functions
from tests.work.functions import SECONDS, double


def there_and_back(function: Any, *args: Any, **kwargs: Any) -> Any:
    content = encode(task_of(function, args, kwargs))
    assert isinstance(content, bytes)
    return _call_in(unpack(content))


def test_a_function_goes_by_its_name() -> None:
    assert task_of(double, (2,), {}) == (double.__module__, "double", (2,), {})
    assert there_and_back(double, 2, key=3) == (double, (2,), {"key": 3})


@pytest.mark.parametrize(
    "function", [len, str.upper, int, dict.fromkeys, functools.partial(double, 1)]
)
def test_what_is_no_plain_function_is_pickled(function: Any) -> None:
    assert task_of(function, (), {}) == (function, (), {})
    back, args, kwargs = there_and_back(function, 2)
    assert (args, kwargs) == ((2,), {})
    if isinstance(function, functools.partial):
        assert (back.func, back.args) == (double, (1,))
    else:
        assert back == function


def test_what_is_not_under_its_name_does_not_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        there_and_back(lambda: 1)
    original = functions.double
    monkeypatch.setattr(functions, "double", functions.divide)
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        there_and_back(original)


def test_a_module_that_is_none_is_left_to_the_pickler(monkeypatch: pytest.MonkeyPatch) -> None:
    def strange() -> None:
        pass

    strange.__qualname__ = "strange"
    module: Any
    for module in None, "nowhere_to_be_found", "not_a_module":
        strange.__module__ = module
        monkeypatch.setitem(sys.modules, "not_a_module", object())
        assert task_of(strange, (), {}) == (strange, (), {})


def test_a_worker_imports_what_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    function, args, kwargs = _call_in(("colorsys", "rgb_to_hsv", (1, 1, 1), {}))
    assert function(*args, **kwargs) == (0.0, 0.0, 1)


def test_a_module_may_make_a_function_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = types.ModuleType("lazy_functions")
    lazy.__getattr__ = lambda name: double
    monkeypatch.setitem(sys.modules, "lazy_functions", lazy)
    assert _call_in(("lazy_functions", "any", (), {}))[0] is double


@pytest.mark.parametrize(
    ("module", "error"), [("nowhere_to_be_found", ModuleNotFoundError), ("json", AttributeError)]
)
def test_a_function_that_a_worker_does_not_have_is_the_unpicklers_error(
    module: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        _call_in((module, "no_such_function", (), {}))


@pytest.mark.usefixtures("forkserver")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_calls_find_what_their_worker_has_under_the_name() -> None:
    # A pickle of the function would say no more: each call looks its name up anew.
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(double, 2).result(SECONDS) == 4
        assert pool.submit(functions.rebind, "double", "divide").result(SECONDS) is None
        error = pool.submit(double, 2).exception(SECONDS)
        assert type(error) is TypeError
        assert "divide() missing" in str(error)


def test_reducers_of_arguments_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local:
        pass

    monkeypatch.setitem(copyreg.dispatch_table, Local, lambda local: (int, ("7",)))
    assert there_and_back(double, Local())[1] == (7,)
