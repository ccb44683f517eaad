"""evalkit measures vision-language models, and says what an architectural choice is worth.

    import evalkit

    evaluation = evalkit.evaluate("docvqa", model="nano", limit=20)
    evaluation.frame

``evaluate``, ``compare``, ``sweep`` and ``leaderboard`` do what the command line does;
``load_results`` and ``load_samples`` read what it left behind as pandas frames; the classes are
what tasks and adapters are written with. Everything is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.adapter import ModelAdapter as ModelAdapter
    from evalkit.api import agree as agree
    from evalkit.api import compare as compare
    from evalkit.api import evaluate as evaluate
    from evalkit.api import leaderboard as leaderboard
    from evalkit.api import load_results as load_results
    from evalkit.api import load_samples as load_samples
    from evalkit.api import sweep as sweep
    from evalkit.api import view as view
    from evalkit.errors import DataError as DataError
    from evalkit.errors import EvalkitError as EvalkitError
    from evalkit.errors import UsageError as UsageError
    from evalkit.evaluation import Evaluation as Evaluation
    from evalkit.models.switch import Switch as Switch
    from evalkit.models.switch import SwitchSet as SwitchSet
    from evalkit.models.switch import switch as switch
    from evalkit.sources import Folder as Folder
    from evalkit.sources import Hub as Hub
    from evalkit.sources import JsonLines as JsonLines
    from evalkit.task import Metric as Metric
    from evalkit.task import Row as Row
    from evalkit.task import Subset as Subset
    from evalkit.task import Task as Task
    from evalkit.types import Completion as Completion
    from evalkit.types import Image as Image
    from evalkit.types import MediaBudget as MediaBudget
    from evalkit.types import Message as Message
    from evalkit.types import Request as Request
    from evalkit.types import Sample as Sample
    from evalkit.types import Score as Score
    from evalkit.types import Text as Text
    from evalkit.types import TokenCounts as TokenCounts
    from evalkit.types import Video as Video

_MODULES = {
    "adapter": "ModelAdapter",
    "api": "Evaluation agree compare evaluate leaderboard load_results load_samples sweep view",
    "errors": "DataError EvalkitError UsageError",
    "models.switch": "Switch SwitchSet switch",
    "sources": "Folder Hub JsonLines",
    "task": "Metric Row Subset Task",
    "types": "Completion Image MediaBudget Message Request Sample Score Text TokenCounts Video",
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names.split()}
"""Public name to the module that has it."""

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("evalkit")
    if name in _PLACES:
        return getattr(import_module(f"evalkit.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'evalkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
