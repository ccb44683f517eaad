"""Ablation switches of a model family: named settings with a default, a check and a source, stated
once.

A family's switches are the fields of one frozen dataclass, each made with ``switch(...)``. From
that one statement come the checks, the help of the command line, and the table in the
documentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, Protocol, Self, runtime_checkable

from evalkit.errors import UsageError


@runtime_checkable
class Parsed(Protocol):
    """A value that is written as text and used as something better: ``str(value)`` is its text."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError that says what is expected."""
        ...


@dataclass(frozen=True)
class Switch:
    """One switch.

    name: how it is given, ``name=value``.
    default: the released value; None where it is not the code's to say (see ``unset``).
    kind: ``str`` (one of ``choices``), ``int``, ``float``, or a class with ``parse`` (``Parsed``).
    choices: the values of a word; for a parsed value its forms, for documentation.
    above, at_most: bounds of a number (exclusive, inclusive).
    unset: what holds where ``default`` is None.
    unit: of a number.
    help: what it does, one sentence.
    read_in: the one place in the code that reads it.
    source: the paper, the release or the account that it comes from.
    needs: other switches, and the values of them under which this one has a meaning.
    budget: whether it says how much is shown, a setting of an evaluation, rather than how the model
        works: a budget other than the trained one makes no inference probe.
    trained: whether weights can be trained with it.
    """

    name: str
    default: Any
    kind: type = str
    choices: tuple[str, ...] = ()
    above: float | None = None
    at_most: float | None = None
    unset: str = ""
    unit: str = ""
    help: str = ""
    read_in: str = ""
    source: str = ""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    budget: bool = False
    trained: bool = True

    def check(self, value: Any) -> Any:
        """``value`` as the model uses it. Raises UsageError that says what is expected."""
        if value is None and self.default is None:
            return None
        if self.kind in (int, float):
            return self._number(value)
        if self.kind is str:
            if not isinstance(value, str) or value not in self.choices:
                raise self._refusal(value)
            return value
        if isinstance(value, self.kind):
            return value
        try:
            if isinstance(value, str) and issubclass(self.kind, Parsed):
                return self.kind.parse(value)
        except ValueError as e:
            raise UsageError(f"{self.name}={value!r}: {e}") from None
        raise self._refusal(value)

    def read(self, text: str) -> Any:
        """The value that a text such as ``64``, ``1e6`` or ``rope1d`` stands for, checked. Raises
        UsageError.
        """
        if self.kind not in (int, float):
            return self.check(text)
        try:
            return self.check(float(text) if self.kind is float or not _digits(text) else int(text))
        except ValueError:
            raise self._refusal(text) from None

    def expected(self) -> str:
        """The values that are allowed, in words."""
        if self.choices:
            return ("one of " if self.kind is str else "") + ", ".join(self.choices)
        number = "a whole number" if self.kind is int else "a number"
        low = "" if self.above is None else f" above {self.above:g}"
        high = "" if self.at_most is None else f", at most {self.at_most:,.0f}"
        return number + low + high

    def values(self) -> tuple[str, ...]:
        """The values, the default first, for a table."""
        first = self.unset if self.default is None else written(self.default)
        if self.choices:
            return tuple(dict.fromkeys((str(first), *self.choices)))
        return (str(first), self.expected().replace("a ", "any ", 1))

    def _number(self, value: Any) -> int | float:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise self._refusal(value)
        if self.kind is int and value != int(value):
            raise self._refusal(value)
        too_low = self.above is not None and value <= self.above
        if too_low or (self.at_most is not None and value > self.at_most):
            raise self._refusal(value)
        return int(value) if self.kind is int else value

    def _refusal(self, value: Any) -> UsageError:
        return UsageError(f"{self.name}={value!r}: expected {self.expected()}")


def switch(default: Any, **about: Any) -> Any:
    """A field of a ``SwitchSet``; ``about`` are the attributes of ``Switch``."""
    return field(default=default, metadata={"switch": about})


@dataclass(frozen=True)
class SwitchSet:
    """All switches of a family with their values; its defaults are the released model.

    Subclasses are frozen dataclasses of ``switch(...)`` fields. Every value is checked as the set
    is built, so one that exists is one that the model can run; anything else raises UsageError.
    """

    def __post_init__(self) -> None:
        known = self.switches()
        for name, one in known.items():
            object.__setattr__(self, name, one.check(getattr(self, name)))
        for name, one in known.items():
            value = getattr(self, name)
            for other, meaningful in one.needs.items():
                if value != one.default and getattr(self, other) not in meaningful:
                    raise UsageError(
                        f"{name}={value} has no meaning under {other}={getattr(self, other)}: "
                        f"only under {', '.join(meaningful)}"
                    )

    @classmethod
    def switches(cls) -> dict[str, Switch]:
        """The switches by name, in the order in which they are declared."""
        return {
            f.name: Switch(
                f.name, None if f.default is MISSING else f.default, **f.metadata["switch"]
            )
            for f in fields(cls)
        }

    def with_(self, given: Mapping[str, Any]) -> Self:
        """This set with ``given`` values in place of its own; None leaves its own.

        What of its own has no meaning under a given value goes back to the default: a checkpoint
        trained with one position scheme is run with another without the first one's settings.
        Raises UsageError for unknown names and for invalid values.
        """
        known = self.switches()
        check_names(given, known)
        new = {name: known[name].check(v) for name, v in given.items() if v is not None}
        own = {name: getattr(self, name) for name in known} | new
        for name, one in known.items():
            if name not in new and any(own[o] not in values for o, values in one.needs.items()):
                own[name] = one.default
        return type(self)(**own)

    def check_trained(self) -> None:
        """Raises UsageError for a switch at a value that no weights are trained with."""
        for name, one in self.switches().items():
            if not one.trained and getattr(self, name) != one.default:
                raise UsageError(f"{name}={getattr(self, name)}: no weights can be trained with it")

    def changed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``given``, as JSON, that make a difference to this set: a switch set to the
        value that it has anyway is no change.
        """
        after, known = self.with_(given), self.switches()
        out = {}
        for name, value in given.items():
            before = self.with_({o: given[o] for o in known[name].needs if o in given})
            if value is not None and before.value(name) != after.value(name):
                out[name] = written(getattr(after, name))
        return out

    def value(self, name: str) -> Any:
        """What holds for a switch, where None stands for a value that another one decides."""
        return getattr(self, name)

    @classmethod
    def probes(cls, changed: Iterable[str]) -> bool:
        """Whether a change of these switches shows weights under mathematics that they were not
        trained with; budgets do not.
        """
        return any(not cls.switches()[name].budget for name in changed)


def check_names(given: Iterable[str], known: Mapping[str, Switch]) -> None:
    """Raises UsageError for a name that is no switch, with those that are."""
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(
            f"unknown switch {', '.join(unknown)}; there are: {', '.join(known) or 'none'}"
        )


def written(value: Any) -> Any:
    """A value as JSON and tables have it: whole numbers without a point, parsed ones as text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def switch_table(
    switches: Mapping[str, Switch], format: Literal["text", "markdown"] = "text"
) -> str:
    """A table of switches: name, values (default first), what it does; in markdown also where the
    code reads it and its source.
    """
    if format == "markdown":
        lines = [
            "| switch | values (default first) | what it does | where in the code | source |",
            "|---|---|---|---|---|",
        ]
        for s in switches.values():
            values = ", ".join(_code(v) if v in s.choices else v for v in _shown(s))
            about = f"{s.help}{_condition(s)}"
            lines.append(f"| `{s.name}` | {values} | {about} | `{s.read_in}` | {s.source} |")
        return "\n".join(lines)
    rows = [
        (s.name, ", ".join(_shown(s)).replace("`", ""), f"{s.help}{_condition(s)}")
        for s in switches.values()
    ]
    wide = [max((len(r[i]) for r in rows), default=0) for i in range(2)]
    return "\n".join(f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c}".rstrip() for a, b, c in rows)


def _shown(s: Switch) -> tuple[str, ...]:
    return tuple(v + (f" {s.unit}" if s.unit and v[0].isdigit() else "") for v in s.values())


def _condition(s: Switch) -> str:
    return "".join(f" (under {o} = {', '.join(v)})" for o, v in s.needs.items())


def _code(value: str) -> str:
    return f"`{value}`"


def _digits(text: str) -> bool:
    return text.strip().lstrip("+-").isdigit()
