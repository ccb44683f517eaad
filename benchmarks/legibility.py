"""Whether the embedded text can be read by others: `python benchmarks/legibility.py [N [SUBSET]]`
looks at every Nth question (all if not given) of a subset, mini or mini_large.

Tesseract, an OCR engine that knows nothing of evalkit, reads each drawn picture of
multilingual_ocr and docvqa, enlarged to four times its size, with the model of its
language. A right answer counts as legible where it is in what Tesseract reads, blanks and case
apart. What it misses may be illegible, or beyond Tesseract: the numbers are lower bounds. Needs the
program `tesseract` (Debian: tesseract-ocr and tesseract-ocr-LANGUAGE).
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from evalkit.task import load_task, read_samples
from evalkit.types import Sample

MODELS = {
    "AR": "ara",
    "DE": "deu",
    "EL": "ell",
    "EN": "eng",
    "FR": "fra",
    "HI": "hin",
    "JA": "jpn",
    "KO": "kor",
    "NUM": "eng",
    "RU": "rus",
    "VI": "vie",  # codespell:ignore vie
    "ZH": "chi_sim",
}
PROGRAM = shutil.which("tesseract") or ""
LAYOUTS = ("6", "11")
"""Tesseract's page segmentation: one block of text, scattered text. Either may find the answer."""


def plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


@lru_cache(maxsize=1024)
def read(picture: bytes, model: str) -> str:
    """What Tesseract reads, in both layouts."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.resize((image.width * 4, image.height * 4), Image.Resampling.LANCZOS)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        image.save(file)
        texts = (
            subprocess.run(
                [PROGRAM, str(file), "-", "-l", model, "--psm", layout],
                capture_output=True,
                check=True,
                env={"OMP_THREAD_LIMIT": "1", "PATH": "/usr/bin:/usr/local/bin"},
            ).stdout.decode()
            for layout in LAYOUTS
        )
        return "\n".join(texts)


def legible(sample: Sample, model: str) -> bool:
    picture = sample.messages[0].content[0]
    answers = sample.target if isinstance(sample.target, list) else [sample.target]
    seen = plain(read(picture.read(), model))  # type: ignore[union-attr]  # media come first
    return any(plain(answer) in seen for answer in answers)


def table(title: str, found: Mapping[str, list[bool]]) -> Iterable[str]:
    yield f"| {title} | answers | read by Tesseract |\n|---|---|---|"
    for name, hits in (*sorted(found.items()), ("all", [h for hs in found.values() for h in hs])):
        yield f"| {name} | {len(hits)} | {100 * sum(hits) / len(hits):.0f} % |"


def main() -> None:
    if not PROGRAM:
        sys.exit("benchmarks/legibility.py needs tesseract: apt-get install tesseract-ocr")
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    subset = sys.argv[2] if len(sys.argv) > 2 else "mini"
    words, documents = f"multilingual_ocr:{subset}", f"docvqa:{subset}"
    languages: dict[str, list[bool]] = {}
    pages: dict[str, list[bool]] = {}
    for sample in islice(read_samples(load_task(words)), 0, None, every):
        assert isinstance(sample, Sample)
        lang = str(sample.metadata["lang"]).upper()
        languages.setdefault(lang, []).append(legible(sample, MODELS[lang]))
    for sample in islice(read_samples(load_task(documents)), 0, None, every):
        assert isinstance(sample, Sample)
        if "arithmetic" not in sample.metadata["question_types"]:  # such answers are not written
            pages.setdefault(str(sample.metadata["tier"]), []).append(legible(sample, "eng"))
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, check=True).stdout
    print(f"{version.decode().splitlines()[0]}\n")
    print("\n".join(table(words, languages)), end="\n\n")
    print("\n".join(table(documents, pages)))


if __name__ == "__main__":
    main()
