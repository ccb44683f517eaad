"""Fields of a JSON file that a person may have changed: of the kind that they must have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_REQUIRED: Any = object()


def typed(value: Mapping[str, Any], key: str, kind: type, default: Any = _REQUIRED) -> Any:
    """The value of a key, of the expected type. An absent or null one is the default. Raises
    ValueError for one that must be there, TypeError for one of another kind.
    """
    item = value.get(key)
    if item is None:
        if default is _REQUIRED:
            raise ValueError(f"no {key!r}")
        return default
    if not isinstance(item, kind) or (isinstance(item, bool) and kind is int):
        raise TypeError(f"{key!r} is {json.dumps(item, default=str):.80}")
    return item


def whole(value: Any) -> int:
    """The whole number. Raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r:.80} is not a whole number")
    return value


def number(value: Any) -> float:
    """The finite number. Raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.80} is not a finite number")
    return value
