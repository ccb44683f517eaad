"""Subtitles: SubRip files are read, and a model is given the lines of the frames that it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalkit.adapter import with_subtitles
from evalkit.errors import DataError, UsageError
from evalkit.prompt_hash import prompt_hash
from evalkit.rows import ask
from evalkit.subtitles import Cue, read_srt, spoken
from evalkit.types import MediaBudget, Message, Sample, Subtitles, Text, Video
from model_adapters.reference import ReferenceAdapter
from model_adapters.transformers import TransformersAdapter
from tests.pictures import png
from tests.plugins.adder import Adder

SRT = """\ufeff1
00:00:00,500 --> 00:00:01,000
<font color="white" size=".72c">Good morning.</font>

2
00:00:01,000 --> 00:00:02,250 X1:0
{\\an8}Two lines
<i>of</i> speech,  1 < 2

3
00:00:03,000 --> 00:00:03,900


4
01:00:00.5 --> 01:00:01.5
The end
"""
CUES = (
    Cue(0.5, 1.0, "Good morning."),
    Cue(1.0, 2.25, "Two lines of speech, 1 < 2"),
    Cue(3600.5, 3601.5, "The end"),
)


def test_cues_are_read_without_markup(tmp_path: Path) -> None:
    file = tmp_path / "v.srt"
    for line_end in ("\n", "\r\n"):
        file.write_text(SRT, newline=line_end, encoding="utf-8")
        assert read_srt(file) == CUES


def test_what_is_no_subtitle_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "v.srt"
    file.write_text("WEBVTT\n")
    with pytest.raises(DataError, match="v.srt: no subtitles in it"):
        read_srt(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="can't be read as subtitles"):
        read_srt(file)
    monkeypatch.setenv("EVALKIT_MAX_JSON_BYTES", "2")
    with pytest.raises(DataError, match="EVALKIT_MAX_JSON_BYTES"):
        read_srt(file)


def test_a_line_is_given_while_it_is_spoken() -> None:
    assert spoken(CUES, [0.0, 0.49, 2.25, 5]) == []
    assert spoken(CUES, [0.5]) == ["Good morning."]
    assert spoken(CUES, [0.75, 1.0, 1.5]) == ["Good morning.", "Two lines of speech, 1 < 2"]
    assert spoken(CUES, [0.5, 0.75], repeat=True) == ["Good morning."] * 2


@pytest.fixture
def clip(tmp_path: Path) -> Video:
    """Four seconds at 4 frames a second."""
    folder = tmp_path / "v"
    folder.mkdir()
    for i in range(16):
        (folder / f"{i:02}.png").write_bytes(png(28, 28, i))
    return Video(folder, fps=4.0)


def asked(clip: Video) -> tuple[Message, ...]:
    return ask(clip, Subtitles("Said:\n{subtitles}\nWhat?", CUES))


@pytest.mark.parametrize("adapter", [ReferenceAdapter, TransformersAdapter])
def test_the_lines_follow_the_frames_that_the_adapter_shows(
    adapter: type[Any], clip: Video
) -> None:
    # two frames a second are shown: at 0, 0.5, 1 ... seconds
    (message,) = with_subtitles(adapter("nano"), asked(clip), MediaBudget(fps=2.0))
    both = Text("Said:\nGood morning.\nTwo lines of speech, 1 < 2\nWhat?")
    assert message.content == (clip, both)
    # four frames, a second and a bit apart
    (message,) = with_subtitles(adapter("nano", max_frames=2), asked(clip), MediaBudget(fps=2.0))
    assert message.content[1] == Text("Said:\n\nWhat?")


def test_an_adapter_that_does_not_say_what_it_shows_is_refused(clip: Video) -> None:
    with pytest.raises(UsageError, match="subtitles can't be matched"):
        with_subtitles(Adder("adder"), asked(clip), MediaBudget())
    plain = ask(clip, "What?")
    assert with_subtitles(Adder("adder"), plain, MediaBudget()) is plain


def test_other_subtitles_are_another_question(clip: Video) -> None:
    one, other = (
        prompt_hash(Sample(messages=ask(clip, Subtitles("{subtitles}", cues))))
        for cues in (CUES, CUES[:2])
    )
    assert one != other
