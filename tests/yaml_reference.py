"""What docs/sweeps.md says of the keys of YAML files."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def yaml_reference(kind: type[BaseModel]) -> str:
    """A markdown table of the keys of a file or a part of one: kind of value, default, meaning."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        default = (
            "required"
            if field.is_required()
            else _shown(field.get_default(call_default_factory=True, validated_data={}))
        )
        about = " ".join((field.description or "").split())
        lines.append(f"| `{name}` | {_kind(field.annotation)} | {default} | {about} |")
    return "\n".join(lines)


def _kind(annotation: Any) -> str:
    """A type in words: ``list of texts``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(args[0])
    if origin is Literal:
        return ", ".join(f"`{a}`" for a in args)
    if origin in (Union, UnionType):
        return _kind(next(a for a in args if a is not type(None)))
    if origin in (tuple, list):
        if origin is tuple and args[1:] != (...,):
            return f"{len(args)} numbers"
        return f"list of {_plural(args[0])}"
    if origin is dict:
        return "mapping" if args[1] is Any else f"mapping to {_plural(args[1])}"
    simple = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    if annotation in simple:
        return simple[annotation]
    return {Any: "any value", Path: "path"}.get(annotation, f"{annotation.__name__}, below")


def _plural(annotation: Any) -> str:
    words = _kind(annotation)
    if words.startswith(("list", "mapping")):
        return words.replace("list", "lists", 1).replace("mapping", "mappings", 1)
    return words if words.endswith(("below", "`")) else f"{words}s"


def _shown(value: Any) -> str:
    if value is None or value in ((), {}, [], ""):
        return "–"
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
