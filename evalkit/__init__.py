"""evalkit measures vision-language models, and says what an architectural choice is worth.

``load_results()`` and ``load_samples()`` read what ``evalkit run`` left behind as pandas frames.
Everything heavy is imported on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.results import load_results, load_samples

__all__ = ["load_results", "load_samples"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from evalkit import results

        return getattr(results, name)
    raise AttributeError(f"module 'evalkit' has no attribute {name!r}")
