"""YAML files that users write: read safely, checked, and faulted by file, line and field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from evalkit.errors import UsageError

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """A value of a file: unknown fields are faults, and it does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_yaml(path: Path, kind: type[M], **replaced: Any) -> M:
    """A checked value; ``replaced`` fields come instead of the file's. Raises UsageError that names
    file, line and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.safe_load(text)
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: not YAML: {e}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected a mapping of {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(found | replaced)
    except UsageError as e:
        raise UsageError(f"{path}: {e}") from None
    except ValidationError as e:
        raise UsageError(f"{path}: {'; '.join(_fault(text, f) for f in e.errors())}") from None


def _fault(text: str, fault: Any) -> str:
    field = ".".join(map(str, fault["loc"]))
    message = fault["msg"].removeprefix("Value error, ")
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
