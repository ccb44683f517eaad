"""Arguments of public functions, checked against their annotations.

In a notebook a text takes the place of a number easily (``fresh="no"``, ``limit="x"``,
``data="rows.jsonl"``); what comes of it may be an error from deep inside, or another number.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from numbers import Integral, Real
from types import UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from evalkit.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, with a UsageError for arguments of other types than it names. None stands for
    the default of whatever has one.
    """
    parameters = signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = parameters.bind(*args, **kwargs)
        hints = get_type_hints(function, localns=_Names(vars(builtins) | function.__globals__))
        for name, value in list(bound.arguments.items()):
            parameter = parameters.parameters[name]
            if parameter.kind is Parameter.VAR_KEYWORD:
                continue
            if value is None and parameter.default is not Parameter.empty:
                del bound.arguments[name]
                continue
            bound.arguments[name] = plain(value)
            if not fits(bound.arguments[name], hints[name]):
                raise UsageError(
                    f"{name}={' '.join(repr(value).split()):.80}: expected {parameter.annotation}, "
                    f"not {type(value).__name__}"
                )
        return function(*bound.args, **bound.kwargs)

    return call


def plain(value: Any) -> Any:
    """Python's own value for one of numpy, pandas or torch, which JSON does not know: a number, or
    the list of a column (``ids=frame["id"]``).
    """
    return value.tolist() if hasattr(value, "tolist") else value


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type. True and False are no numbers; a text is no sequence
    of texts, and has no half characters.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, k) for k in inner)
    if origin is type:
        return isinstance(value, type)
    if origin in (Mapping, Sequence):
        if isinstance(value, str | bytes) or not isinstance(value, origin):
            return False
        items = value.items() if isinstance(value, Mapping) else ((v,) for v in value)
        return all(fits(v, k) for item in items for v, k in zip(item, inner))
    if kind in (int, float):
        is_number = isinstance(value, Integral if kind is int else Real)
        return is_number and not isinstance(value, bool) and value == value
    if kind is str and isinstance(value, str):
        return not any("\ud800" <= c <= "\udfff" for c in value)
    return isinstance(value, kind)


class _Names(dict[str, Any]):
    """What annotations name; what a module imports for type checkers alone may be anything."""

    def __missing__(self, name: str) -> Any:
        return _Later()


class _Later:
    def __getattr__(self, name: str) -> Any:
        return Any
