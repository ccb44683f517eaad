"""Tasks of lmms-eval that are no more than a YAML file over local data, read as data of one's own.

Taken over are the data (``dataset_path`` of a local folder, or of a loader's name with
``dataset_kwargs.data_files``), the split, columns that ``doc_to_visual``, ``doc_to_text``,
``doc_to_target`` and ``doc_to_choice`` name (plainly, or as ``{{column}}``), the texts around the
question, the limit of an answer's length, and the first metric. A ``!function`` is code and not
run: it is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evalkit.bounds import bounds, over
from evalkit.config_files import Loader
from evalkit.errors import UsageError
from evalkit.own import OwnData, Reading, own_task

LOADERS = frozenset("json csv parquet imagefolder videofolder".split())
"""Names that ``datasets`` has for files; what lies where ``data_files`` or ``data_dir`` says."""
METRICS = {"anls": "anls", "exact_match": "exact_match", "relaxed_overall": "relaxed_accuracy"}
KNOWN = frozenset(
    "task task_alias tag group dataset_path dataset_name dataset_kwargs test_split "
    "validation_split output_type doc_to_visual doc_to_text doc_to_target doc_to_choice "
    "generation_kwargs metric_list lmms_eval_specific_kwargs metadata num_fewshot".split()
)


class Code(str):
    """What stands behind ``!function``."""


class TaskLoader(Loader):
    """YAML with lmms-eval's tag for functions, which are not imported."""


TaskLoader.add_constructor("!function", lambda loader, node: Code(node.value))


def yaml_task(path: Path, reading: Reading = Reading()) -> type[OwnData]:
    """The task that such a file describes; what ``reading`` says comes before it. Raises UsageError
    for what can't be read as data.
    """
    values = _read(path)
    file, split = _data(path, values)
    before, question, after = _question(path, values)
    columns = {
        "image": _column(path, values, "doc_to_visual"),
        "question": question,
        "options": _column(path, values, "doc_to_choice"),
        "answer": _column(path, values, "doc_to_target"),
    }
    told = Reading(
        {role: name for role, name in columns.items() if name} | dict(reading.columns),
        reading.metric or _metric(values),
        reading.prompt or f"{before}{{question}}{after}",
    )
    task = own_task(file, told)
    limit = (values.get("generation_kwargs") or {}).get("max_new_tokens")
    return type(
        "OwnData",
        (task,),
        {
            "__module__": task.__module__,
            "name": str(values.get("task") or path.stem),
            "max_new_tokens": limit if type(limit) is int else task.max_new_tokens,
            "default_subset": split if split in task.subsets else task.default_subset,
        },
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > bounds().yaml_bytes:
            raise UsageError(f"{path}: {over('yaml_bytes')}")
        values = yaml.load(path.read_text(encoding="utf-8"), TaskLoader)  # noqa: S506 (a SafeLoader)
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise UsageError(f"{path}: not YAML: {e}") from None
    if not isinstance(values, dict) or "dataset_path" not in values:
        raise UsageError(f"{path}: no task of lmms-eval: it has no dataset_path")
    if strange := sorted(values.keys() - KNOWN):
        raise UsageError(
            f"{path}: {', '.join(strange)} is not read, and may change a score; read are: "
            f"{', '.join(sorted(KNOWN))}"
        )
    if values.get("output_type", "generate_until") != "generate_until" or values.get("num_fewshot"):
        raise UsageError(f"{path}: only output_type generate_until without examples is read")
    return values


def _data(path: Path, values: Mapping[str, Any]) -> tuple[Path, str]:
    """The file or folder of the data, and the split."""
    split = str(values.get("test_split") or values.get("validation_split") or "")
    place = str(values["dataset_path"])
    if place in LOADERS:
        options = values.get("dataset_kwargs") or {}
        files = options.get("data_files") or options.get("data_dir")
        if isinstance(files, Mapping):
            files = files.get(split) or next(iter(files.values()), None)
        if isinstance(files, list) and len(files) == 1:
            files = files[0]
        if not isinstance(files, str):
            raise UsageError(f"{path}: dataset_kwargs.data_files: expected one file, not {files!r}")
        place = files
    here = next((p for p in (path.parent / place, Path(place)) if p.exists()), None)
    if here is None:
        raise UsageError(
            f"{path}: {place} is neither a file nor a folder; data of the hub are read by the "
            "installed tasks (`evalkit tasks`)"
        )
    return here, split


def _column(path: Path, values: Mapping[str, Any], key: str) -> str:
    """The column that a field names; empty where it is absent."""
    value = values.get(key)
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


def _question(path: Path, values: Mapping[str, Any]) -> tuple[str, str, str]:
    """The text before the question, its column, and the text behind it."""
    settings = (values.get("lmms_eval_specific_kwargs") or {}).get("default") or {}
    before, after = (str(settings.get(k) or "") for k in ("pre_prompt", "post_prompt"))
    value = values.get("doc_to_text")
    if isinstance(value, str) and not isinstance(value, Code):
        parts = re.split(r"\{\{\s*(\w+)\s*\}\}", value)
        if len(parts) == 3:
            before, value, after = before + parts[0], parts[1], parts[2] + after
    name = _column(path, {"doc_to_text": value}, "doc_to_text")
    quoted = (text.replace("{", "{{").replace("}", "}}") for text in (before, after))
    return next(quoted), name, next(quoted)


def _metric(values: Mapping[str, Any]) -> str:
    """The first metric, where it is one of ours; empty for none."""
    listed = values.get("metric_list") or [{}]
    name = str(listed[0].get("metric", "")) if isinstance(listed[0], dict) else ""
    return METRICS.get(name, "")
