"""The larger drawn subsets, ``mini_large``: so many scenes that nano's headline scores are known to
within three points.

They are drawn where they are first asked for, into the user's cache folder, since drawing takes a
few seconds and shipping their pixels would make the package twice as large. What is drawn is
identified by every pixel and every word of it, not by encoded bytes, and nothing is lost in
encoding: two machines whose fonts are set alike have equal data.

No scene comes twice, or is one of the embedded ones. They are drawn as those are, but for

- clips, whose first frame does not tell the answer (``clips.draw``, ``unfolding``);
- lines of text, in each language as often as in the others, Hindi among them.

Training does not keep clear of them: among the easiest, which have few forms, it will have shown
some (``docs/data.md`` says how many).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.cache_dir import cache_dir
from evalkit.digests import content_hash
from evalkit.errors import DataError
from evalkit.files import locked, part_of, remove_parts, replace_json
from evalkit.nano import clips, documents, grounding, words
from evalkit.nano.families import Draw, tier_difficulty
from evalkit.nano.mini import HERE, SEED, TABLES, TIERS, Scenes
from evalkit.nano.scene import digest, stream

logger = logging.getLogger("evalkit")

SETS: dict[str, tuple[int, int, Draw]] = {
    "docvqa": (11, 160, documents.draw),
    "refcoco": (12, 260, partial(grounding.draw, style="free")),
    "refcoco_plus": (13, 300, partial(grounding.draw, style="attribute")),
    "refcocog": (14, 270, partial(grounding.draw, style="sentence")),
    "video_qa": (15, 400, partial(clips.draw, unfolding=True)),
    "multilingual_ocr": (16, 200, partial(words.draw, evenly=True)),
}
"""Stream key, scenes a tier, and how a scene is drawn."""
MANIFEST = "manifest.json"
MODULES = "large mini scene families documents grounding clips words wordlists fonts".split()
"""What draws."""


def scenes(name: str, count: int | None = None) -> Scenes:
    """The scenes of a set; the first ``count`` of each tier. None is drawn twice, and none that is
    embedded.
    """
    key, usual, make = SETS[name]
    seen = set(json.loads((HERE / MANIFEST).read_text(encoding="utf-8"))["pictures"])
    for t, tier in enumerate(TIERS):
        for i in range(usual if count is None else count):
            rng = stream("mini", SEED, key, t, i)
            scene = make(tier_difficulty(tier, rng), rng)
            while digest(scene) in seen:
                scene = make(tier_difficulty(tier, rng), rng)
            seen.add(digest(scene))
            yield tier, i, scene


def drawn(name: str) -> tuple[Path, str]:
    """The folder of a set, in the official layout, and what identifies its rows, 64 hex digits;
    drawn first where it is not there whole, by one process at a time. Raises DataError when it
    can't be written.
    """
    folder = cache_dir() / "drawn" / f"{name}-{_maker()}"
    if identity := _identity(folder):
        return folder, identity
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent):  # another process may have drawn it in the meantime
            return folder, _identity(folder) or _draw(name, folder)
    except OSError as e:
        raise DataError(
            f"{folder}: {name}:mini_large can't be drawn there ({e.strerror}); XDG_CACHE_HOME "
            "names another folder"
        ) from e


def _draw(name: str, folder: Path) -> str:
    logger.info("drawing %s:mini_large, once: kept in %s", name.replace("_plus", "+"), folder)
    begun, part = time.monotonic(), part_of(folder)
    remove_parts(folder.parent)  # of processes that were killed
    try:
        identity = write(name, part)
        shutil.rmtree(folder, ignore_errors=True)  # one that was changed
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    logger.info("drawn in %.0f s", time.monotonic() - begun)
    return identity


def write(name: str, folder: Path, count: int | None = None) -> str:
    """Writes a set, or the first ``count`` scenes of each tier, to a folder, with a manifest
    beside; gives back what identifies its rows.
    """
    pixels, texts = hashlib.sha256(), hashlib.sha256()

    def noted() -> Scenes:
        for tier, i, scene in scenes(name, count):
            pixels.update(digest(scene).encode())
            yield tier, i, scene

    def told() -> Iterator[dict[str, Any]]:
        for row in TABLES[name].rows(noted(), folder, write_clip):
            words_ = {k: v for k, v in row.items() if k != "image"}
            texts.update(json.dumps(words_, sort_keys=True).encode())
            yield row

    TABLES[name].write(folder, told())
    identity = hashlib.sha256(f"{pixels.hexdigest()} {texts.hexdigest()}".encode()).hexdigest()
    manifest = {"schema_version": 1, "identity": identity, "files": content_hash(_files(folder))}
    replace_json(folder / MANIFEST, manifest)
    return identity


def write_clip(path: Path, frames: np.ndarray[Any, Any], fps: float) -> None:
    """An mp4 of uint8 frames [n, height, width, 3] in which none of them loses anything."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"fflags": "+bitexact", "movflags": "+faststart"}) as out:
        stream_ = out.add_stream(
            "libx264rgb", rate=round(fps), options={"qp": "0", "preset": "veryfast"}
        )
        stream_.width, stream_.height = frames.shape[2], frames.shape[1]
        stream_.pix_fmt = "rgb24"
        stream_.codec_context.thread_count = 1
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            out.mux(stream_.encode(frame))
        out.mux(stream_.encode())


def _identity(folder: Path) -> str | None:
    """What the manifest of a folder says that it holds; None where its files are not as they were
    written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = manifest["files"] == content_hash(_files(folder))
        return str(manifest["identity"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in (".parquet", ".mp4"))


@lru_cache(maxsize=1)
def _maker() -> str:
    """Tells what is drawn by this release, with these fonts and libraries, from what another one
    drew: 12 hex digits.
    """
    import PIL
    from PIL import features

    here = Path(__file__).parent
    libraries = [PIL.__version__, np.__version__, *map(features.version, ("freetype2", "raqm"))]
    files = [here / f"{name}.py" for name in MODULES]
    text = f"{libraries} {content_hash([*files, *sorted((here / 'fonts').glob('*.ttf'))])}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
