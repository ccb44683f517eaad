"""Models and questions that every arm gets alike: checkpoints, and pictures of a size that no
engine has to change.

nano is the shipped model, with the questions of docvqa:mini, all of them or the first of every
page; its answers end where it ends them. small (16 M parameters) and big (192 M) have random
weights, nano's tokenizer, and the head sizes of the releases; they answer 16 tokens to each of 16
pictures of 320 to 1,200 visual tokens. A load is a list of rows: id, image, question, the rendered
prompt, and its token ids with the grid that stands in them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageDraw

from evalkit.adapter import make_adapter
from evalkit.media import decode_image
from evalkit.models.qwen2_vl.bench import random_model
from evalkit.models.qwen2_vl.checkpoint import save
from evalkit.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, VisionConfig
from evalkit.nano import shipped
from evalkit.task import load_task
from evalkit.types import Image, Message, Request, Text

SIZES = {
    "small": (VisionConfig(4, 160, 2, 512), (512, 1024, 6, 4, 2)),
    "big": (VisionConfig(8, 320, 4, 896), (896, 4864, 12, 7, 1)),
}
"""The tower; the decoder's width, inner width, layers, heads and kv heads."""
PAGES = (
    *((16, 20), (18, 24), (22, 18), (20, 28), (24, 24), (30, 20), (24, 28), (26, 26)),
    *((32, 24), (28, 30), (30, 30), (34, 28), (32, 32), (40, 26), (36, 32), (30, 40)),
)
"""Rows and columns of visual tokens of the pictures that the random models are shown."""
FACTOR = 28
"""Pixels of a visual token's side."""
LOADS = {"docvqa": "nano", "pages": "nano", "small": "small", "big": "big"}
"""The model of each load."""
Row = dict[str, Any]


def checkpoint(name: str, work: Path) -> Path:
    """The folder of a model; a random one is written there the first time."""
    if name == "nano":
        return shipped()["nano"]
    folder = work / "models" / name
    if not (folder / "config.json").is_file():
        nano = Qwen2VLConfig.load(shipped()["nano"])
        vision, (width, inner, layers, heads, kv_heads) = SIZES[name]
        text = TextConfig(nano.text.vocab_size, width, inner, layers, heads, kv_heads)
        config = replace(nano, vision=vision, text=text, trained_with={})
        model = random_model(config, "float32", "cpu")
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.mul_(4)  # answers that differ from picture to picture
        save(model, folder, companions=shipped()["nano"])
    return folder


def load(name: str, work: Path, limit: int | None = None) -> Path:
    """A load's file, written anew with its pictures."""
    folder = work / "loads" / name
    folder.mkdir(parents=True, exist_ok=True)
    model = LOADS[name]
    adapter = make_adapter("reference", str(checkpoint(model, work)), {"device": "cpu"})
    rows = []
    asked = _documents(name == "pages") if model == "nano" else _pictures()
    for number, (id_, picture, question, new) in enumerate(asked):
        if number == limit:
            break
        buffer = io.BytesIO()
        height, width = (max(FACTOR, round(n / FACTOR) * FACTOR) for n in picture.size[::-1])
        picture.resize((width, height), PILImage.Resampling.BICUBIC).save(buffer, "PNG")
        path = folder / f"{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.png"
        path.write_bytes(buffer.getvalue())
        message = Message("user", (Image(path), Text(question)))
        prompt = adapter.prompts.make(Request(id_, (message,), new))
        rows.append(
            {
                "id": id_,
                "image": str(path),
                "question": question,
                "prompt": adapter.chat.render(
                    [
                        {
                            "role": "user",
                            "content": [{"type": "image"}, {"type": "text", "text": question}],
                        }
                    ]
                ),
                "ids": prompt.ids,
                "grid": prompt.media[0].grid,
                "new": new,
                "natural": model == "nano",
            }
        )
    file = folder / "load.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def parts(rows: list[Row], count: int) -> list[list[Row]]:
    """The rows dealt to ``count`` processes, those of a picture together, longest first."""
    pages: dict[str, list[Row]] = {}
    for row in rows:
        pages.setdefault(row["image"], []).append(row)
    out: list[list[Row]] = [[] for _ in range(count)]
    costs = [0] * count
    for page in sorted(pages.values(), key=lambda page: -sum(len(r["ids"]) for r in page)):
        least = costs.index(min(costs))
        out[least] += page
        costs[least] += len(page[0]["ids"])
    return out


def _documents(first_only: bool) -> Iterator[tuple[str, PILImage.Image, str, int]]:
    task, seen = load_task("docvqa:mini"), set()
    for row in task.subsets["mini"].source.rows():
        for sample in task.samples(row):
            image = next(p for p in sample.messages[0].content if isinstance(p, Image))
            text = next(p for p in sample.messages[0].content if isinstance(p, Text))
            if first_only and image.digest in seen:
                continue
            seen.add(image.digest)
            yield sample.id, decode_image(image), text.text, 32


def _pictures() -> Iterator[tuple[str, PILImage.Image, str, int]]:
    rng = np.random.default_rng(7)
    for number, (rows, columns) in enumerate(PAGES):
        height, width = rows * FACTOR, columns * FACTOR
        noise = rng.integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)
        picture = PILImage.fromarray(noise).resize((width, height), PILImage.Resampling.BICUBIC)
        draw = ImageDraw.Draw(picture)
        for item in range(30):
            x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
            colour = tuple(int(c) for c in rng.integers(0, 256, 3))
            far = x + int(rng.integers(5, 200)), y + int(rng.integers(5, 120))
            draw.rectangle((x, y, *far), fill=colour)
            draw.text((x, y), f"item {item}", fill="white")
        yield f"picture-{number}", picture, f"What is the ITEM of line {number}?", 16
