"""Probes as tasks: what any model is asked, and how its answers are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from evalkit.tasks import probes
from evalkit.tasks.probes import read

from evalkit.errors import UsageError
from evalkit.media import decode_image, decode_video
from evalkit.probes import PROBES
from evalkit.task import load_task, read_samples
from evalkit.types import Completion, Image, Sample, Text, Video


def first(task: str, count: int) -> list[Sample]:
    out: list[Sample] = []
    for sample in read_samples(load_task(task)):
        assert isinstance(sample, Sample), sample
        out.append(sample)
        if len(out) == count:
            break
    return out


def of(sample: Sample) -> tuple[Image | Video, str]:
    media, text = sample.messages[0].content
    assert isinstance(media, Image | Video) and isinstance(text, Text)
    return media, text.text


@pytest.mark.parametrize("probe", PROBES)
def test_the_right_answer_scores_and_another_does_not(probe: str) -> None:
    task = load_task(f"probe_{probe}")
    for sample in first(f"probe_{probe}", 8):
        _, text = of(sample)
        assert text.endswith((".", "?")) and sample.metadata["kind"] in PROBES[probe].kinds
        for said in (sample.target, f"It is {sample.target}.", str(sample.target).upper()):
            assert task.score(sample, Completion("", said)).values["exact"] == 1
        nothing = task.score(sample, Completion("", "I can't see it"))
        assert nothing.values["exact"] == 0 and nothing.unparsed
        if "most" in sample.metadata:
            for said in ("999", "9" * 5000):
                far = task.score(sample, Completion("", said)).values["distance"]
                assert far == nothing.values["distance"] == sample.metadata["most"]


def test_scenes_are_those_of_the_seed_and_views_share_their_questions() -> None:
    small, again, moved = (first(f"probe_where:{s}", 4) for s in ("small", "small", "shuffled"))
    assert [s.messages for s in small] == [s.messages for s in again]
    assert [(of(s)[1], s.target) for s in small] == [(of(s)[1], s.target) for s in moved]
    assert of(small[0])[0].digest != of(moved[0])[0].digest


def test_a_clip_is_read_with_two_frames_a_second_and_a_page_as_a_picture() -> None:
    sample = first("probe_where", 1)[0]
    media, _ = of(sample)
    assert isinstance(media, Video)
    seconds, rows, columns = map(int, sample.metadata["grid"].split("x"))
    shown = decode_video(media, lambda total, fps: list(range(total)))
    assert shown.shape[0] == 2 * seconds
    page = first("probe_reading", 1)[0]
    media, _ = of(page)
    assert isinstance(media, Image)
    _, rows, columns = map(int, page.metadata["grid"].split("x"))
    assert decode_image(media).size == (columns * 56, rows * 56)


def test_text_stands_between_scene_and_question_where_it_fades() -> None:
    filler = {s.cluster: len(of(s)[1].split()) for s in first("probe_fading", 16)}
    assert filler["1"] - 32 < filler["2"] - 32 < filler["3"] - 256
    assert filler["3"] > 1024


@pytest.mark.parametrize(
    ("text", "target", "answer"),
    [
        ("In second 3.", "2", "3"),
        ("The third? No: three", "2", "3"),
        ("07", "7", "7"),
        ("The red one, not the blue", "blue", "red"),
        ("greenish", "green", ""),
        ("Yes, there is.", "no", "yes"),
        ("red", "3", ""),
        ("", "yes", ""),
    ],
)
def test_the_first_answer_of_the_asked_kind_is_read(text: str, target: str, answer: str) -> None:
    assert read(text, target) == answer


def test_drawn_scenes_are_not_replaced_by_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="scenes are drawn"):
        list(load_task("probe_where").source.rows(tmp_path))


def test_a_new_probe_does_not_change_the_scenes_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(PROBES) == probes.FIRST, "so that no scene changed"
    before = first("probe_where", 1)
    monkeypatch.setattr(probes, "PROBES", {**PROBES, "anything": PROBES["where"]})
    assert first("probe_where", 1) == before
    assert probes._stream("anything") not in range(len(probes.FIRST))
