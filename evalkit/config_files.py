"""YAML files that users write: read safely, checked, and faulted by file, line and field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from evalkit.bounds import bounds, over
from evalkit.errors import UsageError


class Strict(BaseModel):
    """A value of a file: unknown fields are faults, true and false are no numbers, and it does not
    change. What a field means stands in the string below it, from which its documentation is made.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    _file: Path | None = PrivateAttr(None)

    def file(self, shipped: Path) -> str | None:
        """How a command names the file that this was read from: by its path, or, when it ships in
        the folder ``shipped``, by its name. None for one that was not read.
        """
        if self._file is None:
            return None
        return self._file.stem if self._file.parent == shipped else str(self._file)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _leaves(cls.model_fields[str(info.field_name)].annotation)
        if not {bool, Any} & kinds:
            of_models = any(isinstance(k, type) and issubclass(k, BaseModel) for k in kinds)
            for one in [value] if of_models else _scalars(value):
                if isinstance(one, bool):
                    raise ValueError(f"{str(one).lower()} is neither a number nor a text")
        return value


def _leaves(annotation: Any) -> set[Any]:
    """The types that a type is made of: of a list of numbers or None, number and None."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    parts = get_args(annotation)
    return {leaf for part in parts for leaf in _leaves(part)} if parts else {annotation}


def _scalars(value: Any) -> Iterator[Any]:
    """What is in a list or mapping, and in those within it."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _scalars(item)
    else:
        yield value


M = TypeVar("M", bound=Strict)


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML as people write it in files for others: no key twice in a mapping, and no aliases, whose
    few bytes may stand for billions of values.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"{_place(self.peek_event())}aliases are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.YAMLError(f"{_place(key)}{key.value!r} is given twice")
            seen.add(str(key.value))
        return dict(super().construct_mapping(node, deep))


def _place(thing: Any) -> str:
    return f"line {thing.start_mark.line + 1}: "


def read_yaml(
    path: Path,
    kind: type[M],
    replaced: Mapping[str, Any] = MappingProxyType({}),
    loader: type[Loader] = Loader,
) -> M:
    """A checked value; ``replaced`` fields come instead of the file's. Raises UsageError that names
    file, line and field.
    """
    try:
        if (size := path.stat().st_size) > bounds().yaml_bytes:
            raise UsageError(f"{path}: {size:,} bytes: {over('yaml_bytes')}")
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, loader)  # noqa: S506 (a SafeLoader, stricter)
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as e:
        raise UsageError(f"{path}: not YAML: {e}") from None
    except RecursionError:
        raise UsageError(f"{path}: not YAML: nested too deeply") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a mapping of {', '.join(kind.model_fields)}")
    try:
        value = kind.model_validate(content | dict(replaced))
    except UsageError as e:
        raise UsageError(f"{path}: {e}") from None
    except ValidationError as e:
        raise UsageError(f"{path}: {'; '.join(_fault(text, f) for f in e.errors())}") from None
    value._file = path
    return value


def _fault(text: str, fault: Any) -> str:
    field = ".".join(map(str, fault["loc"]))
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "string_type" and field.endswith(".[key]"):
        message = f"expected a text, such as '{fault['input']}' in quotes"
    elif fault["type"] in ("tuple_type", "list_type"):
        message = f"expected a list, such as [{fault['input']}]"
    elif fault["type"] in ("dict_type", "model_type", "dataclass_type"):
        message = "expected a mapping, such as {name: value}"
    elif fault["type"] == "unexpected_keyword_argument":  # a dataclass's
        message = "Extra inputs are not permitted"
    if not field:
        return str(message)
    line = next(
        (n for n, t in enumerate(text.splitlines(), 1) if t.startswith(f"{fault['loc'][0]}:")), None
    )
    return f"{f'line {line}: ' if line else ''}{field}: {message}"


def find_shipped(name: str, folder: Path, what: str) -> Path:
    """The file that ships as ``folder/name.yaml``, or the given file. Raises UsageError with the
    shipped names.
    """
    shipped = {p.stem: p for p in folder.glob("*.yaml")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise UsageError(
            f"{name}: no such file, and not one of the shipped {what}: {', '.join(sorted(shipped))}"
        )
    return path


def yaml_quotes(settings: Mapping[str, Any]) -> str:
    """The hint for settings that YAML read as true or false where words were meant; else empty."""
    words = [name for name, value in settings.items() if isinstance(value, bool)]
    return f" (in YAML with quotes: {words[0]}: 'on' or 'off')" if words else ""
