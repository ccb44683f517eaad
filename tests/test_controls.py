"""Controls: the same questions with the pictures changed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from evalkit import evaluate
from evalkit.cell import Cell
from evalkit.controls import CONTROLS, controlled, swapped
from evalkit.errors import DataError, UsageError
from evalkit.media import decode_image, decode_video
from evalkit.results.leaderboard import Leaderboard
from evalkit.run_info import Selection
from evalkit.runner import run_cell
from evalkit.task import RowError, load_task, read_samples
from evalkit.types import Completion, Image, MediaBudget, Message, Request, Sample, Text, Video
from tests.plugins.adder import Adder


def png(colour: tuple[int, int, int], size: tuple[int, int] = (30, 20)) -> Image:
    out = io.BytesIO()
    PILImage.new("RGB", size, colour).save(out, "PNG")
    return Image(out.getvalue())


def ask(*parts: Image | Video | Text) -> tuple[Message, ...]:
    return (Message("user", parts),)


def frames(clip: Video) -> np.ndarray:
    return decode_video(clip, lambda total, fps: list(range(total)))


@pytest.fixture(scope="module")
def clip() -> Video:
    """The first of video_qa:mini, whose frames differ."""
    sample = next(s for s in read_samples(load_task("video_qa")) if isinstance(s, Sample))
    (part,) = [p for p in sample.messages[0].content if isinstance(p, Video)]
    return part


def test_blind_keeps_the_size_and_text_only_keeps_the_words() -> None:
    asked = ask(png((255, 0, 0)), Text("what?"))
    picture, text = controlled(asked, "blind", "1", MediaBudget())[0].content
    assert isinstance(picture, Image) and text == Text("what?")
    assert decode_image(picture).size == (30, 20)
    assert set(np.asarray(decode_image(picture)).ravel().tolist()) == {128}
    assert controlled(asked, "text-only", "1", MediaBudget())[0].content == (Text("what?"),)


def test_a_shuffled_clip_has_the_same_frames_in_another_order_each_time_alike(clip: Video) -> None:
    budget = MediaBudget(fps=2.0)

    def shuffled(id: str) -> Video:
        (part,) = controlled(ask(clip), "shuffled-frames", id, budget)[0].content
        assert isinstance(part, Video)
        return part

    a = shuffled("1")
    assert shuffled("1").digest == a.digest
    total, fps = _timing(clip)
    shown, seen = frames(clip), frames(a)
    assert len(seen) == round(total / fps * 2)
    kept = [shown[int(i)] for i in np.linspace(0, total - 1, len(seen)).round()]
    assert sorted(f.tobytes() for f in seen) == sorted(f.tobytes() for f in kept)
    orders = [[f.tobytes() for f in frames(shuffled(str(i)))] for i in range(5)]
    assert any(order != [f.tobytes() for f in kept] for order in orders)
    n, rate = _timing(a)
    assert n / rate == pytest.approx(total / fps, rel=0.01)


def _timing(clip: Video) -> tuple[int, float]:
    out: list[tuple[int, float]] = []

    def first(total: int, fps: float) -> list[int]:
        out.append((total, fps))
        return [0]

    decode_video(clip, first)
    return out[0]


def test_a_blind_clip_is_as_long_and_a_single_frame_is_the_middle_one(clip: Video) -> None:
    (grey,) = controlled(ask(clip), "blind", "1", MediaBudget(fps=2.0))[0].content
    assert isinstance(grey, Video)
    seen = frames(grey)
    assert seen.shape[1:] == frames(clip).shape[1:] and set(seen.ravel().tolist()) == {128}
    (still,) = controlled(ask(clip), "single-frame", "1", MediaBudget())[0].content
    assert isinstance(still, Image)
    whole = frames(clip)
    assert (np.asarray(decode_image(still)) == whole[len(whole) // 2]).all()


def test_swapped_pictures_are_those_of_the_next_other_one() -> None:
    red, green, blue = (png(c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))

    def sample(id: str, picture: Image, cluster: str) -> Sample:
        return Sample(id, ask(picture, Text(id)), cluster=cluster)

    rows: list[Sample | RowError] = [
        sample("1", red, "r"),
        sample("2", red, "r"),
        RowError("x", "bad"),
        sample("3", green, "g"),
        sample("4", blue, "b"),
    ]
    out = list(swapped(rows))
    assert [s.id for s in out] == ["1", "2", "x", "3", "4"]
    shown = [s.messages[0].content[0] for s in out if isinstance(s, Sample)]
    assert shown == [green, green, blue, red]
    assert list(swapped(rows[:2])) == [
        RowError(i, "control image-swapped: there is no other picture in the data") for i in "12"
    ]


def test_a_sample_with_nothing_to_change_is_an_error() -> None:
    for control in CONTROLS:
        with pytest.raises(DataError, match=f"control {control}: the sample has no"):
            controlled(ask(Text("2 + 2 =")), control, "1", MediaBudget())
    with pytest.raises(DataError, match="no clip"):
        controlled(ask(png((0, 0, 0))), "single-frame", "1", MediaBudget())


class Looker(Adder):
    """Answers rightly where the picture isn't grey."""

    name = "looker"

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for r in requests:
            (picture,) = [p for m in r.messages for p in m.content if isinstance(p, Image)]
            grey = np.asarray(decode_image(picture)).std() == 0
            yield Completion(r.id, "nothing" if grey else ANSWERS[r.id])


ANSWERS: dict[str, str] = {}


def test_the_leaderboard_says_how_much_needs_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Looker, "blind", {"see": 0}, raising=False)
    task = load_task("docvqa")
    ANSWERS.update((s.id, s.target[0]) for s in read_samples(task) if isinstance(s, Sample))
    some = Selection(first=(0, 6))
    for control in ("", "blind"):
        cell = Cell.make(task, Looker("l"), "looker", tmp_path, control=control)
        outcome = run_cell(cell, some, progress=False)
        assert outcome.results.errors == 0
        board = Leaderboard.of(tmp_path)
        assert any("no vision baseline" in n for n in board.notes()) == (not control)
    ((task_, _, metric, score, control, under, needs, *_),) = board.control_rows()
    assert (task_, metric, control) == ("docvqa:mini", "anls", "blind")
    assert (score, needs) == ("100.0", f"+{100 - float(under):.1f}")
    assert "How much needs the picture" in board.markdown() and "needs the picture" in board.text()
    assert [row[2] for row in board.overview().rows] == ["", "control=blind"]
    assert sorted(row[4] for row in board.long()) == ["", "control=blind"]


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_gives_equal_answers_through_the_transformers_adapter(
    control: str, tmp_path: Path
) -> None:
    texts = {}
    for adapter in ("reference", "transformers"):
        evaluation = evaluate(
            "video_qa", adapter=adapter, limit=6, control=control, output=tmp_path, progress=False
        )
        (outcome,) = evaluation.outcomes
        assert (outcome.results.n, outcome.results.errors) == (6, 0)
        texts[adapter] = {id: r.text for id, r in outcome.cell.stored.records().items()}
    assert texts["reference"] == texts["transformers"]


def test_an_unknown_control_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no control 'dark'; there are: blind, text-only"):
        Cell.make(load_task("docvqa"), Adder("a"), "a", tmp_path, control="dark")
