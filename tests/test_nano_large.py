"""The larger drawn subsets: each scene once, known by its pixels, and not told by a first frame."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from evalkit.errors import DataError
from evalkit.nano import clips, large, tokenizer, words
from evalkit.nano.clips import FPS
from evalkit.nano.mini import HERE
from evalkit.nano.scene import Scene, digest
from evalkit.task import load_task, read_samples
from evalkit.types import Sample


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets of two scenes a tier; the folder that they are kept in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, (key, _, make) in large.SETS.items():
        monkeypatch.setitem(large.SETS, name, (key, 2, make))
    return tmp_path / "evalkit" / "drawn"


@pytest.mark.parametrize("name", ["docvqa", "refcoco", "refcoco+", "refcocog", "video_qa"])
def test_a_set_is_drawn_when_it_is_first_read(name: str, small: Path) -> None:
    task = load_task(f"{name}:mini_large")
    samples = list(read_samples(task))
    assert len({s.cluster for s in samples if isinstance(s, Sample)}) == 6
    assert len(list(small.iterdir())) == 1
    (told,) = {json.dumps(task.source.describe()) for _ in range(2)}
    assert json.loads(told)["kind"] == "embedded"


def test_what_was_changed_is_drawn_again_and_is_the_same_data(small: Path) -> None:
    folder, identity = large.drawn("multilingual_ocr")
    (table,) = folder.glob("*.parquet")
    whole = table.stat()
    table.write_bytes(b"cut")
    assert large.drawn("multilingual_ocr") == (folder, identity)
    assert table.stat().st_size == whole.st_size and table.stat().st_ino != whole.st_ino
    assert large.drawn("multilingual_ocr")[1] == identity
    assert [p.name for p in small.iterdir()] == [folder.name]


def test_two_that_want_a_set_at_once_draw_it_once(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = large.write

    def counted(name: str, folder: Path) -> str:
        written.append(name)
        return write(name, folder)

    monkeypatch.setattr(large, "write", counted)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(large.drawn, ["multilingual_ocr"] * 2)
    assert one == other and written == ["multilingual_ocr"]


def test_where_nothing_can_be_written_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evalkit").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match="refcocog:mini_large can't be drawn there.*XDG_CACHE_HOME"):
        large.drawn("refcocog")


def test_no_scene_is_drawn_twice_or_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of digits on a few cells are often alike: the sixty here would hold some."""

    def digits(difficulty: float, rng: np.random.Generator) -> Scene:
        return words.draw(0.0, rng)

    monkeypatch.setitem(large.SETS, "multilingual_ocr", (16, 60, digits))
    drawn = [digest(scene) for _, _, scene in large.scenes("multilingual_ocr")]
    shipped = json.loads((HERE / "manifest.json").read_text())["pictures"]
    assert len(set(drawn)) == len(drawn) == 180
    assert not set(drawn) & set(shipped)


def unfolding(kind: str, n: int = 6) -> list[Scene]:
    found: list[Scene] = []
    rng = np.random.default_rng(5)
    while len(found) < n:
        scene = clips.draw(float(rng.choice([0.1, 0.25])), rng, unfolding=True)
        if scene.questions[0].kind == kind:
            found.append(scene)
    return found


def painted(frame: np.ndarray) -> np.ndarray:
    return np.argwhere((frame != 255).any(axis=-1))


def test_what_is_counted_or_comes_first_is_not_in_the_first_frame() -> None:
    for kind in ("count", "order"):
        for scene in unfolding(kind):
            assert not len(painted(scene.frames[0]))  # type: ignore[index]
    for scene in unfolding("order"):
        assert not len(painted(scene.frames[-1]))  # type: ignore[index]


def test_what_moves_starts_in_the_middle() -> None:
    answers = set()
    for scene in unfolding("direction", 20):
        assert scene.frames is not None
        middle = painted(scene.frames[0]).mean(axis=0) / scene.frames.shape[1:3]
        assert (abs(middle - 0.5) < 0.12).all()
        answers.add(scene.questions[0].answer)
    assert answers == set(clips.DIRECTIONS)


def test_what_disappears_is_one_of_several_and_another_appears() -> None:
    """Backwards, another object disappears: frames without their order don't tell."""
    for scene in unfolding("vanish"):
        assert scene.frames is not None
        first, last = (frame.astype(int) != 255 for frame in (scene.frames[0], scene.frames[-1]))
        assert (first & ~last).any() and (last & ~first).any() and (first & last).any()


def test_a_clip_loses_nothing(tmp_path: Path) -> None:
    frames = unfolding("direction", 1)[0].frames
    assert frames is not None
    large.write_clip(tmp_path / "c.mp4", frames, FPS)
    with av.open(str(tmp_path / "c.mp4")) as file:
        read = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
    assert np.array_equal(np.stack(read), frames)


def test_every_language_is_drawn_and_hindi_is_new_to_nano() -> None:
    rng = np.random.default_rng(0)
    drawn = {words.draw(0.9, rng, evenly=True).questions[0].kind for _ in range(150)}
    assert drawn == set(words.LANGUAGES)
    shipped = HERE.parents[1] / "nano" / "checkpoints" / "nano" / "tokenizer.json"
    assert json.loads(tokenizer.build().to_str()) == json.loads(shipped.read_text())


def test_devanagari_is_shaped() -> None:
    """Consonants without a vowel between them join to one narrower sign."""
    face = words.font(words.DEVANAGARI, 30)
    assert face.getlength("विद्यालय") < 0.9 * sum(face.getlength(c) for c in "विद्यालय")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(large.SETS))
def test_the_sizes_are_those_of_the_tables(name: str) -> None:
    task = load_task(f"{name.replace('_plus', '+')}:mini_large")
    assert task.source.count() == task.subset.size  # type: ignore[attr-defined]
    assert all(isinstance(s, Sample) for s in read_samples(task))
