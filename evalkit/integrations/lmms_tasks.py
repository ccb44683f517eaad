"""lmms-eval's tasks inside evalkit: ``--tasks lmms:docvqa_val``, or ``lmms:FOLDER/my.yaml``.

lmms-eval (Zhang et al., "LMMs-Eval", 2024; the extra ``lmms`` installs it) has some two thousand
tasks as YAML files with Python functions beside them. Here such a task keeps its prompt, its length
and end of an answer and its scoring, and gets evalkit's adapters, journal, intervals and
comparisons. Assumed is lmms-eval 0.7.3 or later, and a task that generates answers.

What becomes of its scores: a number that ``process_results`` gives is the sample's value as it is;
of a mapping it is the entry ``score`` (the task's ``score_key``), or what the task's aggregation
makes of this sample alone. The cell's score is the mean of the samples' values, in lmms-eval's
unit; where lmms-eval aggregates otherwise (over a corpus, or in per cent), ``aggregated`` has its
own number. What ``process_results`` draws at random is drawn from the sample's id, and the sample
counts as unparsed.

The text columns of a document are kept with its sample, so that answers are rescored without the
data.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from evalkit.errors import DataError, UsageError, reason
from evalkit.protocols import DEFAULT, Protocol
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Image, Media, Message, Sample, Score, Text, Video

CLIPS = frozenset(".mp4 .mkv .webm .avi .mov .flv .mpg .mpeg".split())
LENGTH = 128
"""Tokens of an answer where the task says nothing, as lmms-eval's Qwen2-VL wrapper has it."""


def _need_lmms_eval() -> None:
    """Raises UsageError where it is not installed; silences its log."""
    try:
        import_module("lmms_eval.tasks")
    except ImportError as e:
        raise UsageError(
            f"tasks lmms:NAME need lmms-eval: pip install 'evalkit[lmms]' ({reason(e)})"
        ) from e
    import_module("loguru").logger.disable("lmms_eval")


@lru_cache(maxsize=8)
def index(folder: str = "") -> Mapping[str, Mapping[str, Any]]:
    """The tasks by name: lmms-eval's own, or those of a folder. Raises UsageError without
    lmms-eval.
    """
    _need_lmms_eval()
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder or None, include_defaults=not folder)
    out: Mapping[str, Mapping[str, Any]] = manager.task_index
    return out


@lru_cache(maxsize=64)
def yaml_of(name: str) -> Path:
    """The YAML file of a task. Raises UsageError for a name that there is not, and for a group with
    the names that it stands for.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UsageError(f"lmms:{name}: no such file")
        return Path(name).resolve()
    if found := _named(name):
        return found
    there = index()  # takes long: it reads two thousand files
    if name not in there:
        close = get_close_matches(name, there, 3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise UsageError(f"lmms-eval {version('lmms_eval')} has no task {name!r}{hint}")
    entry = there[name]
    if entry["type"] != "task":
        inside = entry.get("task") or []
        if not isinstance(inside, list):  # a group's own file
            inside = _config(Path(entry["yaml_path"])).get("task", [])
        listed = ",".join(f"lmms:{t}" for t in inside if isinstance(t, str))
        kind = str(entry["type"]).replace("_", " ")
        raise UsageError(f"lmms:{name} is a {kind}, not a task{listed and f'; name {listed}'}")
    return Path(entry["yaml_path"])


def _named(name: str) -> Path | None:
    """The file of lmms-eval that defines a task by a line of its own, as most do."""
    _need_lmms_eval()
    from lmms_eval import tasks

    line = re.compile(rf"^task: *[\"']?{re.escape(name)}[\"']? *(?:#.*)?$", re.MULTILINE)
    for file in Path(tasks.__file__).parent.rglob("*.yaml"):
        if line.search(file.read_text(encoding="utf-8", errors="replace")):
            return file
    return None


@lru_cache(maxsize=64)
def _config(file: Path) -> Mapping[str, Any]:
    from lmms_eval import utils

    out: Mapping[str, Any] = utils.load_yaml_config(yaml_path=str(file), mode="full")
    return out


def config_of(name: str) -> dict[str, Any]:
    """What a task's YAML file says, its functions loaded. Raises UsageError when it can't be used
    here.
    """
    file = yaml_of(name)
    try:
        config = dict(_config(file))
    except Exception as e:  # the file's own Python
        raise UsageError(f"lmms:{name}: {file}: {reason(e)}") from e
    kind = config.get("output_type", "generate_until")
    if kind != "generate_until":
        raise UsageError(f"lmms:{name} is of output type {kind}; evalkit runs generate_until")
    if config.get("process_results_use_image"):
        raise UsageError(f"lmms:{name} scores with the picture at hand, which is not done here")
    if config.get("num_fewshot"):
        raise UsageError(f"lmms:{name} shows examples first (num_fewshot), which is not done here")
    return config


@lru_cache(maxsize=4)
def built(name: str, data: Path | None) -> Any:
    """The task with its documents, from the hub or a local folder of parquet files by split. Raises
    DataError.
    """
    from lmms_eval.api.task import ConfigurableTask

    config = config_of(name)
    if data is not None:
        files: dict[str, list[str]] = {}
        for file in sorted(data.rglob("*.parquet")):
            files.setdefault(file.name.split("-")[0].removesuffix(".parquet"), []).append(str(file))
        if not files:
            raise DataError(f"{data}: no parquet files")
        config |= {
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files},
        }
    try:
        return ConfigurableTask(config=config)
    except Exception as e:  # whatever the task's code or the hub's client raises
        where = data or config.get("dataset_path")
        raise DataError(f"lmms:{name}: {where}: {reason(e)}") from e


_SCORERS: dict[str, Any] = {}


def scorer(name: str, document: str) -> Any:
    """The task with a single document of texts, which is enough to score any of its documents."""
    if name not in _SCORERS:
        from datasets import Dataset
        from lmms_eval.api.task import ConfigurableTask

        class Stored(ConfigurableTask):  # type: ignore[misc]
            def download(self, dataset_kwargs: object = None) -> None:
                documents = Dataset.from_list([json.loads(document)])
                split = self.config.test_split or self.config.validation_split
                self.dataset = self.dataset_no_image = {split: documents}

        _SCORERS[name] = Stored(config=config_of(name) | {"process_docs": None})
    return _SCORERS[name]


def sample_value(task: Any, metric: str, made: Any) -> float:
    """The value of one sample, of what ``process_results`` made for a metric."""
    if isinstance(made, Mapping):
        made = made.get(task.config.score_key, made)
    if isinstance(made, bool | int | float):
        return float(made)
    return float(task.aggregation()[metric]([made]))


class Documents:
    """The documents of a task as rows. lmms-eval fetches them where they are not given."""

    def __init__(self, name: str) -> None:
        self.name = name

    def rows(self, override: Path | None = None) -> Iterator[Mapping[str, Any]]:
        documents = built(self.name, override).eval_docs
        for i in range(len(documents)):
            yield {"doc_id": i, "doc": documents[i], "data": override}

    def count(self, override: Path | None = None) -> int:
        return len(built(self.name, override).eval_docs)

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """Texts of the documents and the files of the task by their digests; pictures and clips are
        in each sample's prompt.
        """
        texts = hashlib.sha256()
        documents = built(self.name, override).eval_docs_no_media
        for document in documents:
            texts.update(text_of(document).encode())
        folder = yaml_of(self.name).parent
        code = hashlib.sha256()
        for file in sorted(f for f in folder.iterdir() if f.suffix in (".py", ".yaml", "")):
            if file.is_file():
                code.update(file.name.encode() + file.read_bytes())
        return {
            "kind": "local" if override else "lmms-eval",
            "name": Path(self.name).name,
            "lmms_eval": version("lmms_eval"),
            "texts": texts.hexdigest(),
            "task_files": code.hexdigest(),
        }


class Names(Mapping[str, Subset]):
    """Subsets by the names of lmms-eval's tasks; they are too many to be listed."""

    def __getitem__(self, name: str) -> Subset:
        config = config_of(name)
        limits = config.get("generation_kwargs") or {}
        until = limits.get("until", config.get("fewshot_delimiter", "\n\n"))
        ends = [until] if isinstance(until, str) else until or []
        return Subset(
            Documents(name),
            metrics=tuple(
                Metric(
                    m["metric"], higher_is_better=bool(m.get("higher_is_better", True)), scale=1.0
                )
                for m in config.get("metric_list", ())
                if m["metric"] != "submission"
            ),
            max_new_tokens=int(limits.get("max_new_tokens", LENGTH)),
            protocols={
                DEFAULT: Protocol(
                    origin=f"lmms-eval {version('lmms_eval')}, {yaml_of(name).name}",
                    prompt="{text}",
                    stop=tuple(e for e in ends if e),
                )
            },
        )

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(name) and bool(yaml_of(name))

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class LmmsTask(Task):
    """One sample per document, numbered by it; those on the same picture or clip, or with the same
    value of the task's ``cluster_key``, are one cluster.
    """

    name = "lmms"
    version = 1
    description = "a task of lmms-eval, with its own prompt and scoring"
    subsets: ClassVar = Names()
    default_subset = ""

    def __init__(self, subset: str = "", protocol: str = "") -> None:
        if not subset:
            raise UsageError("lmms: name one of lmms-eval's tasks, such as lmms:docvqa_val")
        super().__init__(subset, protocol)
        if not self.metrics:
            raise UsageError(f"lmms:{subset} has no metric: it only writes a file to send")

    def samples(self, row: Row) -> Iterable[Sample]:
        task, document = built(self.subset_name, row["data"]), row["doc"]
        media = [medium(v, row["data"]) for v in task.doc_to_visual(document) or ()]
        key = task.config.cluster_key
        yield Sample(
            messages=self.ask(media, text=str(task.doc_to_text(document))),
            target=_plain(task.doc_to_target(document)),
            cluster=str(document.get(key, media[0].digest[:16] if media else "")),
            metadata={"doc": text_of(document)},
        )

    def ask(self, media: Any, **fields: Any) -> tuple[Message, ...]:
        """The task's own text behind its pictures and clips."""
        return (Message("user", (*media, Text(fields["text"].replace("<image>", "")))),)

    def score(self, sample: Sample, completion: Completion) -> Score:
        stored = sample.metadata["doc"]
        task = scorer(self.subset_name, stored)
        state, before = random.getstate(), _seed(sample.id)
        try:
            made = task.process_results(json.loads(stored), [completion.text])
            drawn = random.getstate() != before
        finally:
            random.setstate(state)
        values = {n: sample_value(task, n, made[n]) for m in self.metrics if (n := m.name) in made}
        text = completion.text.strip()
        return Score(
            values, parsed="drawn at random" if drawn else text, unparsed=drawn or not text
        )


def _seed(id: str) -> object:
    random.seed(hashlib.sha256(id.encode()).digest())
    return random.getstate()


def text_of(document: Mapping[str, Any]) -> str:
    """A document as JSON, without its pictures, sounds and other bytes."""
    kept = {k: v for k, v in document.items() if _plain(v) is not None or v is None}
    return json.dumps(kept, sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A value that JSON can hold; None for another."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return value


def medium(value: Any, data: Path | None) -> Media:
    """What a task shows: a picture as PNG, a file by its path. A file that lmms-eval has not
    unpacked is looked for by its name below the local data. Raises DataError.
    """
    if isinstance(value, str | Path):
        path = Path(value)
        if not path.exists() and data is not None:
            path = next(iter(sorted(data.rglob(path.name))), path)
        if not path.exists():
            raise DataError(f"{path}: no such file; lmms-eval fetches it, or give it with --data")
        return (Video if path.suffix.lower() in CLIPS or path.is_dir() else Image)(path)
    if not hasattr(value, "convert"):
        raise DataError(f"the task shows a {type(value).__name__}, neither picture nor clip")
    packed = io.BytesIO()
    value.convert("RGB").save(packed, "PNG", compress_level=1)
    return Image(packed.getvalue())


def aggregated(name: str, scored: Iterable[tuple[str, str]]) -> dict[str, float]:
    """lmms-eval's own numbers over (document, answer) pairs, documents as ``text_of`` wrote them;
    those that it can't make of a part of the data are left out.
    """
    pairs = list(scored)
    if not pairs:
        return {}
    task = scorer(name, pairs[0][0])
    made = [task.process_results(json.loads(doc), [answer]) for doc, answer in pairs]
    out = {}
    for metric, aggregate in task.aggregation().items():
        items = [m[metric] for m in made if metric in m]
        try:
            out[metric] = float(aggregate(items))
        except Exception:  # noqa: S112 - the task's own code; it may want files or arguments
            continue
    return {k: v for k, v in out.items() if math.isfinite(v)}
