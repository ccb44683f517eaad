"""The reference adapter, from files to texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from arm import run

from evalkit.adapter import make_adapter
from evalkit.types import Image, Message, Request, Text


def prepare(model: str, rows: list[Any], options: dict[str, Any]) -> Any:
    torch.set_num_threads(options["threads"])
    arguments = {"device": "cpu", "dtype": options["dtype"], **options.get("arguments", {})}
    adapter = make_adapter("reference", model, arguments)
    if not rows[0]["natural"]:
        adapter.chat.stop_ids = frozenset()

    def request(row: Any) -> Request:
        message = Message("user", (Image(Path(row["image"])), Text(row["question"])))
        return Request(row["id"], (message,), row["new"])

    def answer(rows: list[Any]) -> dict[str, str]:
        done = list(adapter.generate(map(request, rows)))
        if wrong := [c.error for c in done if c.error]:
            raise SystemExit(wrong[0])
        return {c.id: c.text for c in done}

    return answer


run(prepare)
