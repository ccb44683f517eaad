"""The embedded ``mini`` subsets, written as parquet in the official schemas: ``python -m
evalkit.nano.mini [FOLDER [FACTOR]]``. (``evalkit.nano.large`` draws those of ``mini_large``.)

A third of each subset is drawn at each tier; the tier is the first word of an identifier that the
official schema has (``easy-0012``). The random stream is one that training never uses. Images are
PNG, clips H.264 in mp4. With a factor, so many times as many scenes are drawn, the embedded ones
among them, for intervals that are narrower.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from evalkit.errors import UsageError
from evalkit.nano import grounding
from evalkit.nano.families import DRAW, Draw, Tier, tier_difficulty
from evalkit.nano.scene import Scene, digest, stream

HERE = Path(__file__).parent.parent / "data" / "mini"
SEED = 2026
TIERS: tuple[Tier, ...] = get_args(Tier)
Row = dict[str, Any]
Scenes = Iterable[tuple[Tier, int, Scene]]
"""Scenes with their tier and their number in it."""
Encode = Callable[[Path, "np.ndarray[Any, Any]", float], None]
"""Writes frames at so many a second to a file."""


SUBSETS: dict[str, tuple[int, int, Draw]] = {
    "docvqa": (1, 26, DRAW["documents"]),
    "refcoco": (2, 26, partial(grounding.draw, style="free")),
    "refcoco_plus": (3, 28, partial(grounding.draw, style="attribute")),
    "refcocog": (4, 28, partial(grounding.draw, style="sentence")),
    "video_qa": (5, 68, DRAW["clips"]),
    "multilingual_ocr": (6, 67, DRAW["words"]),
}
"""Stream key, scenes a tier, and how a scene is drawn."""


def scenes(key: int, count: int, make: Draw) -> Iterator[tuple[Tier, int, Scene]]:
    """``count`` scenes of each tier; scene i of a tier depends on nothing but the key, the tier and
    i.
    """
    for t, tier in enumerate(TIERS):
        for i in range(count):
            rng = stream("mini", SEED, key, t, i)
            yield tier, i, make(tier_difficulty(tier, rng), rng)


def pictures() -> list[str]:
    """Digests of all pictures and clips, sorted: what training must not show."""
    return sorted(
        {
            digest(scene)
            for key, count, make in SUBSETS.values()
            for _, _, scene in scenes(key, count, make)
        }
    )


def png(scene: Scene) -> dict[str, Any]:
    """An image as ``datasets`` stores one."""
    buffer = io.BytesIO()
    assert scene.image is not None
    scene.image.save(buffer, "PNG", optimize=True)
    return {"bytes": buffer.getvalue(), "path": None}


def drawn(subset: str, factor: int) -> Iterator[tuple[Tier, int, Scene]]:
    """The scenes of a subset, ``factor`` times as many as are embedded."""
    key, count, make = SUBSETS[subset]
    return scenes(key, factor * count, make)


def docvqa_rows(scenes: Scenes) -> Iterator[Row]:
    """Three questions a page, in the columns of `lmms-lab/DocVQA`."""
    for tier, i, scene in scenes:
        picture, page = png(scene), TIERS.index(tier) * 1000 + i
        for k, q in enumerate(scene.questions[:3]):
            yield {
                "questionId": str(page * 10 + k),
                "question": q.text,
                "question_types": [q.kind],
                "image": picture,
                "docId": page,
                "ucsf_document_id": f"{tier}-{i:04d}",
                "ucsf_document_page_no": "1",
                "answers": [q.answer],
                "data_split": "mini",
            }


def refcoco_rows(scenes: Scenes) -> Iterator[Row]:
    """A row an object with its expressions, in the columns of `lmms-lab/RefCOCO`."""
    for tier, i, scene in scenes:
        picture = png(scene)
        by_box: dict[tuple[int, int, int, int], list[str]] = {}
        for q in scene.questions:
            assert q.box is not None
            by_box.setdefault(q.box, []).append(q.text)
        for k, (box, expressions) in enumerate(by_box.items()):
            x, y, w, h = (float(v) for v in box)
            yield {
                "question_id": f"{TIERS.index(tier) * 1000 + i}{k}",
                "image": picture,
                "question": "Describe the marked region in a few words.",
                "answer": expressions,
                "segmentation": [x, y, x + w, y, x + w, y + h, x, y + h],
                "bbox": [x, y, w, h],
                "iscrowd": 0,
                "file_name": f"{tier}_{i:04d}.png",
            }


def clip_rows(scenes: Scenes, folder: Path, encode: Encode) -> Iterator[Row]:
    """A question a clip, in the columns of `lmms-lab/NExTQA`; writes the clips to ``folder``."""
    for tier, i, scene in scenes:
        name = f"{tier}-{i:04d}"
        assert scene.frames is not None
        encode(folder / f"{name}.mp4", scene.frames, scene.fps)
        q = scene.questions[0]
        yield {
            "video": name,
            "frame_count": len(scene.frames),
            "width": scene.frames.shape[2],
            "height": scene.frames.shape[1],
            "question": q.text,
            "answer": q.options.index(q.answer),
            "qid": 0,
            "type": q.kind,
            **{f"a{k}": option for k, option in enumerate(q.options)},
        }


def word_rows(scenes: Scenes) -> Iterator[Row]:
    """A row an image with two questions, in the columns of multilingual_ocr."""
    for tier, i, scene in scenes:
        asked = scene.questions[:2]
        yield {
            "image": png(scene),
            "qa_pairs": str([{"question": q.text, "answer": q.answer} for q in asked]),
            "lang": asked[0].kind.upper(),
            "id": f"{tier}-{i:04d}",
        }


@dataclass(frozen=True)
class Table:
    """A subset in its official schema: where its parquet file lies below the data set's folder, its
    columns by the names of ``datasets`` types, and how scenes become rows.
    """

    file: str
    columns: Mapping[str, str]
    rows: Callable[[Scenes, Path, Encode], Iterator[Row]]

    def write(self, folder: Path, rows: Iterable[Row]) -> tuple[Path, int]:
        """Writes the rows' parquet file below the folder; the file and the number of rows."""
        import datasets
        from datasets import Features, Image, List, Value

        kinds = {
            "text": Value("string"),
            "whole": Value("int64"),
            "image": Image(),
            "texts": List(Value("string")),
            "reals": List(Value("float64")),
        }
        columns = Features({name: kinds[kind] for name, kind in self.columns.items()})
        path = folder / f"{self.file}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_list(list(rows), features=columns)
        shown = not datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            table.to_parquet(path)
        finally:
            if shown:
                datasets.enable_progress_bars()
        return path, len(table)


def _pictures(rows: Callable[[Scenes], Iterator[Row]]) -> Callable[..., Iterator[Row]]:
    return lambda scenes, folder, encode: rows(scenes)


REFCOCO = {
    "question_id": "text",
    "image": "image",
    "question": "text",
    "answer": "texts",
    "segmentation": "reals",
    "bbox": "reals",
    "iscrowd": "whole",
    "file_name": "text",
}
TABLES: Mapping[str, Table] = {
    "docvqa": Table(
        "validation",
        {
            "questionId": "text",
            "question": "text",
            "question_types": "texts",
            "image": "image",
            "docId": "whole",
            "ucsf_document_id": "text",
            "ucsf_document_page_no": "text",
            "answers": "texts",
            "data_split": "text",
        },
        _pictures(docvqa_rows),
    ),
    **{
        name: Table("val", REFCOCO, _pictures(refcoco_rows))
        for name in ("refcoco", "refcoco_plus", "refcocog")
    },
    "video_qa": Table(
        "MC/test",
        {
            "video": "text",
            "frame_count": "whole",
            "width": "whole",
            "height": "whole",
            "question": "text",
            "answer": "whole",
            "qid": "whole",
            "type": "text",
            **{f"a{k}": "text" for k in range(5)},
        },
        lambda scenes, folder, encode: clip_rows(scenes, folder / "videos", encode),
    ),
    "multilingual_ocr": Table(
        "test",
        {"image": "image", "qa_pairs": "text", "lang": "text", "id": "text"},
        _pictures(word_rows),
    ),
}


def write_clip(path: Path, frames: np.ndarray[Any, Any], fps: float) -> None:
    """An mp4 of uint8 frames [n, height, width, 3] with even sides. The encoder gives equal bytes
    for equal frames only almost always.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"fflags": "+bitexact", "movflags": "+faststart"}) as out:
        stream_ = out.add_stream(
            "libx264", rate=round(fps), options={"crf": "16", "preset": "slow", "threads": "1"}
        )
        stream_.width, stream_.height = frames.shape[2], frames.shape[1]
        stream_.pix_fmt = "yuv420p"
        stream_.codec_context.thread_count = 1
        for picture in frames:
            out.mux(
                stream_.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                )
            )
        out.mux(stream_.encode())


def write(folder: Path = HERE, factor: int = 1) -> None:
    """Writes all subsets, ``factor`` times as large as the embedded ones, and ``manifest.json``
    (rows and SHA-256 of each file, digests of all embedded pictures). Raises UsageError for a
    factor beyond what the identifiers of scenes can number.
    """
    if not 1 <= factor <= 14:
        raise UsageError(f"factor {factor}: expected 1 to 14")
    rows_of = {}
    for name, table in TABLES.items():
        rows = table.rows(drawn(name, factor), folder / name, write_clip)
        path, count = table.write(folder / name, rows)
        rows_of[str(path.relative_to(folder))] = count
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".parquet", ".mp4"))
    digests = {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
    manifest = {
        "schema_version": 1,
        "seed": SEED,
        "rows": rows_of,
        "sha256": digests,
        "pictures": pictures(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(
        Path(sys.argv[1]) if len(sys.argv) > 1 else HERE,
        int(sys.argv[2]) if len(sys.argv) > 2 else 1,
    )
