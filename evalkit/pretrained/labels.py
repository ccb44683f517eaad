"""Choices of a question, and the labels of a model with a vocabulary of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping


def bare(choice: str) -> str:
    """A choice without the letter before it: ``B. a dog`` is a dog."""
    return re.sub(r"^[A-Z]\. ", "", choice)


def name_of(text: str) -> str:
    """A name as it is compared: case, underscores and an article before it don't matter."""
    plain = " ".join(text.replace("_", " ").casefold().split())
    return re.sub(r"^(?:a|an|the) ", "", plain)


def by_name(labels: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """The ids of labels by each of their names: ``tench, Tinca tinca`` has two, and the whole."""
    found: dict[str, tuple[int, ...]] = {}
    for i, label in sorted(labels.items()):
        for name in dict.fromkeys(map(name_of, (label, *label.split(", ")))):
            found[name] = (*found.get(name, ()), i)
    return found
