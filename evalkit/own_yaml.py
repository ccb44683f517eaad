"""Tasks of lmms-eval that are no more than a YAML file over local data, read as data of one's own.

Taken over are the data (``dataset_path`` of a local folder, or of a loader's name with
``dataset_kwargs.data_files``), the split, columns that ``doc_to_visual``, ``doc_to_text``,
``doc_to_target`` and ``doc_to_choice`` name (plainly, or as ``{{column}}``), the texts around the
question, the limit of an answer's length and where it stops, and the first metric. A ``!function``
is code and not run: it is refused by name, as is whatever else may change an answer or a score.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from evalkit.config_files import Loader, Strict, read_yaml
from evalkit.errors import UsageError
from evalkit.own import METRICS, OwnData, Reading, own_task
from evalkit.task import Subset

LOADERS = frozenset("json csv parquet imagefolder videofolder".split())
"""Names that ``datasets`` has for files; what lies where ``data_files`` or ``data_dir`` says."""
RENAMED = {"relaxed_overall": "relaxed_accuracy"}
"""Metrics that have another name here."""


class Code(str):
    """What stands behind ``!function``."""


class TaskLoader(Loader):
    """YAML with lmms-eval's tag for functions, which are not imported."""


TaskLoader.add_constructor(
    "!function", lambda loader, node: Code(yaml.SafeLoader.construct_scalar(loader, node))
)
Files = str | list[str]


class Source(Strict, extra="ignore"):
    """Where ``datasets`` would find the files; what else it is told is not needed here."""

    data_files: Files | dict[str, Files] | None = None
    data_dir: str | None = None


class Generation(Strict):
    """Greedy answers."""

    max_new_tokens: int | None = Field(default=None, gt=0)
    until: Files = ()  # type: ignore[assignment]  # none
    temperature: float | None = Field(default=0, le=0)
    do_sample: bool | None = False
    num_beams: Literal[1] | None = 1
    top_p: float | None = None
    top_k: float | None = None

    @field_validator("do_sample")
    @classmethod
    def _greedy(cls, value: bool | None) -> bool | None:
        if value:
            raise ValueError("answers are drawn with --temperature only")
        return value


class Surroundings(Strict, extra="ignore"):
    """Texts around the question; functions take others."""

    pre_prompt: str | None = None
    post_prompt: str | None = None


class Counted(Strict, extra="ignore"):
    """One of the metrics, and how the values of samples come together."""

    metric: str


class LmmsTask(Strict):
    """The fields that are read, or change nothing."""

    task: str | None = None
    task_alias: Any = None
    tag: Any = None
    group: Any = None
    dataset_path: str
    dataset_name: Any = None
    dataset_kwargs: Source | None = None
    test_split: str | None = None
    validation_split: str | None = None
    output_type: Literal["generate_until"] = "generate_until"
    doc_to_visual: Any = None
    doc_to_text: Any = None
    doc_to_target: Any = None
    doc_to_choice: Any = None
    generation_kwargs: Generation | None = None
    metric_list: list[Counted] | None = None
    lmms_eval_specific_kwargs: dict[str, Surroundings | None] | None = None
    metadata: Any = None
    num_fewshot: Literal[0] | None = 0

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Mapping[Any, Any]) -> Mapping[Any, Any]:
        if "dataset_path" not in values:
            raise UsageError("no task of lmms-eval: it has no dataset_path")
        if strange := [str(key) for key in values if key not in cls.model_fields]:
            raise UsageError(
                f"{', '.join(strange)} is not read, and may change a score; read are: "
                f"{', '.join(sorted(cls.model_fields))}"
            )
        return values


def yaml_task(path: Path, reading: Reading = Reading()) -> type[OwnData]:
    """The task that such a file describes; what ``reading`` says comes before it. Raises UsageError
    for what can't be read as data.
    """
    told = read_yaml(path, LmmsTask, loader=TaskLoader)
    file, split = _data(path, told)
    before, question, after = _question(path, told)
    columns = {
        "image": _column(path, told, "doc_to_visual"),
        "question": question,
        "options": _column(path, told, "doc_to_choice"),
        "answer": _column(path, told, "doc_to_target"),
    }
    task = own_task(
        file,
        Reading(
            {role: name for role, name in columns.items() if name} | dict(reading.columns),
            reading.metric or _metric(path, told),
            reading.prompt or f"{before}{{question}}{after}",
        ),
    )
    asked = told.generation_kwargs or Generation()
    stop = (asked.until,) if isinstance(asked.until, str) else tuple(asked.until)
    stop = tuple(filter(None, stop))  # a text of no length stands before every answer
    return type(
        "OwnData",
        (task,),
        {
            "__module__": task.__module__,
            "name": told.task or path.stem,
            "max_new_tokens": asked.max_new_tokens or task.max_new_tokens,
            "default_subset": split if split in task.subsets else task.default_subset,
            "subsets": {name: _stopping(s, stop) for name, s in task.subsets.items()},
        },
    )


def _stopping(subset: Subset, stop: tuple[str, ...]) -> Subset:
    """The subset with answers that end before one of these texts."""
    protocols = {name: replace(p, stop=stop) for name, p in subset.protocols.items()}
    return replace(subset, protocols=protocols)


def _data(path: Path, told: LmmsTask) -> tuple[Path, str]:
    """The file or folder of the data, and the split."""
    split = told.test_split or told.validation_split or ""
    place = told.dataset_path
    if place in LOADERS:
        source = told.dataset_kwargs or Source()
        files = source.data_files or source.data_dir
        if isinstance(files, Mapping):
            only = next(iter(files.values())) if len(files) == 1 else None
            files = files.get(split) if split else only
        if isinstance(files, list) and len(files) == 1:
            files = files[0]
        if not isinstance(files, str):
            raise UsageError(
                f"{path}: dataset_kwargs.data_files: expected one file{split and ' of the split '}"
                f"{split}, not {source.data_files!r}"
            )
        place = files
    here = next((p for p in (path.parent / place, Path(place)) if p.exists()), None)
    if here is None:
        raise UsageError(
            f"{path}: {place} is neither a file nor a folder; data of the hub are read by the "
            "installed tasks (`evalkit tasks`)"
        )
    return here, split


def _column(path: Path, told: LmmsTask, key: str) -> str:
    """The column that a field names; empty where it is absent."""
    return _named(path, key, getattr(told, key))


def _named(path: Path, key: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, Code):
        raise UsageError(
            f"{path}: {key}: !function {value} is code, which is not run; name a column, or say "
            "what its columns are: --columns ROLE=COLUMN on the data file itself"
        )
    if isinstance(value, str) and (name := re.fullmatch(r"\{\{\s*(\w+)\s*\}\}|([\w.-]+)", value)):
        return str(name[1] or name[2])
    raise UsageError(f"{path}: {key}: {value!r:.80} is not the name of a column")


def _question(path: Path, told: LmmsTask) -> tuple[str, str, str]:
    """The text before the question, its column, and the text behind it."""
    around = (told.lmms_eval_specific_kwargs or {}).get("default") or Surroundings()
    before, after = around.pre_prompt or "", around.post_prompt or ""
    value = told.doc_to_text
    if isinstance(value, str) and not isinstance(value, Code):
        parts = re.split(r"\{\{\s*(\w+)\s*\}\}", value)
        if len(parts) == 3:
            before, value, after = before + parts[0], parts[1], parts[2] + after
    name = _named(path, "doc_to_text", value)
    quoted = (text.replace("{", "{{").replace("}", "}}") for text in (before, after))
    return next(quoted), name, next(quoted)


def _metric(path: Path, told: LmmsTask) -> str:
    """The first metric; empty for none."""
    if not told.metric_list:
        return ""
    name = told.metric_list[0].metric
    if (name := RENAMED.get(name, name)) not in METRICS:
        raise UsageError(
            f"{path}: metric_list: {name} is not computed here; name one of {', '.join(METRICS)}: "
            "--metric NAME"
        )
    return name
