"""Peak memory of a short and a long run: `python benchmarks/memory.py [--rows 200,5000] [--save
FILE]`.

Draws a DocVQA subset of that many rows (official columns, pages of the nano generator at
difficulties of 0 to 0.4), runs `evalkit run` on the first rows of it with the reference adapter in
processes of their own, and reads each one's largest resident size.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CHILD = """
import json, resource, sys
from evalkit.cli import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def rows(count: int) -> Iterator[dict[str, Any]]:
    from evalkit.nano.families import draw
    from evalkit.nano.scene import stream

    page = made = 0
    while made < count:
        scene = draw("documents", page % 5 / 10, stream("dev", 7, page))
        buffer = io.BytesIO()
        assert scene.image is not None
        scene.image.save(buffer, "PNG")
        for q in scene.questions[: count - made]:
            yield {
                "questionId": str(made),
                "question": q.text,
                "question_types": [q.kind],
                "image": {"bytes": buffer.getvalue(), "path": None},
                "docId": page,
                "ucsf_document_id": f"drawn-{page}",
                "ucsf_document_page_no": "1",
                "answers": [q.answer],
                "data_split": "validation",
            }
            made += 1
        page += 1


def main() -> None:
    import datasets
    from datasets import Features, Image, List, Value

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="200,5000")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    counts = [int(n) for n in args.rows.split(",")]
    text, whole = Value("string"), Value("int64")
    columns = {
        "questionId": text,
        "question": text,
        "question_types": List(text),
        "image": Image(),
        "docId": whole,
    }
    columns |= {
        "ucsf_document_id": text,
        "ucsf_document_page_no": text,
        "answers": List(text),
        "data_split": text,
    }
    lines = [
        "# Peak resident memory of `evalkit run`, docvqa rows, nano, fp32",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()} CPU, {args.threads} threads.",
        "",
        "| rows | peak MiB |",
        "|---|---|",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "docvqa"
        data.mkdir()
        table = datasets.Dataset.from_generator(
            rows,
            gen_kwargs={"count": max(counts)},
            features=Features(columns),
            cache_dir=str(Path(scratch) / "cache"),
        )
        table.to_parquet(data / "validation-00000-of-00001.parquet", batch_size=100)
        for n in counts:
            command = [
                "run",
                "--tasks",
                "docvqa:val",
                "--data",
                f"docvqa:val={data}",
                "--limit",
                str(n),
                "--switch",
                "min_pixels=100352",
            ]
            child = [sys.executable, "-c", CHILD, *command, "--output", str(Path(scratch) / str(n))]
            done = subprocess.run(child, capture_output=True, text=True, env=env)
            said = (
                json.loads(done.stdout.splitlines()[-1])
                if not done.returncode
                else {"code": done.returncode}
            )
            if said["code"]:
                sys.exit(f"evalkit run ended with {said['code']}:\n{done.stdout}\n{done.stderr}")
            lines.append(f"| {n} | {said['rss'] / 2**20:.0f} |")
    print("\n".join(lines))
    if args.save:
        args.save.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
