"""Probes: what they draw and ask, and what an ideal observer can know from each view."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from evalkit.probes import PROBES
from evalkit.probes.drawing import FRAMES, SIDE, clip, frames
from evalkit.probes.lookup import Needle
from evalkit.probes.oracle import ceilings
from evalkit.probes.scene import NAMES, UNKNOWN, Mark, Range, shown


def scenes(name: str, count: int, cells: Range | None = None):  # type: ignore[no-untyped-def]
    probe, rng = PROBES[name](), np.random.default_rng(7)
    grids = cells or probe.trained
    return probe, [probe.scene(rng, grids.draw(rng)) for _ in range(count)]


@pytest.mark.parametrize("name", PROBES)
def test_a_scene_holds_its_marks_and_asks_what_can_be_answered(name: str) -> None:
    probe, drawn = scenes(name, 60)
    kinds: Counter[str] = Counter()
    for scene in drawn:
        filled = [c for m in scene.marks for c in m.cells(scene.grid)]
        assert len(set(filled)) == len(filled) and max(filled) < math.prod(scene.grid)
        assert len({m.colour for m in scene.marks}) == len(scene.marks)
        for q in scene.questions:
            kinds[q.kind] += 1
            assert q.answer and q.answer != UNKNOWN and (not q.options or q.answer in q.options)
            assert probe.text(q, scene.grid).endswith(".")
    assert set(kinds) == set(probe.kinds)


@pytest.mark.parametrize("name", PROBES)
def test_who_sees_all_knows_all_and_who_sees_less_knows_less(name: str) -> None:
    probe = PROBES[name](PROBES[name].trained.high)
    tops = ceilings(probe, probe.trained, scenes=60)
    for kind in probe.kinds:
        whole, blind = tops["whole"][kind], tops["blind"][kind]
        assert (whole.right, whole.nll) == (1, 0)
        assert blind.right < 0.75 and blind.nll > 0.4
        for known in ("shuffled", "first_second", "index"):
            assert blind.right - 1e-9 <= tops[known][kind].right <= 1
        if kind not in probe.controls:
            assert tops["shuffled"][kind].right < 0.75, "a shuffle takes the answer away"


@pytest.mark.parametrize("name", sorted(set(PROBES) - {"reading"}))
def test_the_observer_is_right_as_often_as_he_believes(name: str) -> None:
    """Calibration: the mean belief in the right answer is that of drawing from the beliefs."""
    cells = PROBES[name].trained
    cells = Range(low=cells.low, high=cells.high, most=min(cells.most, 18))
    probe, drawn = scenes(name, 250, cells)
    for known in ("shuffled", "blind", "first_second", "index"):
        off = []
        for scene in drawn:
            for q in scene.questions[:2]:
                believed = probe.posterior(scene, q, known, cells)
                assert sum(believed.values()) == pytest.approx(1)
                off.append(believed.get(q.answer, 0.0) - sum(p * p for p in believed.values()))
        error = np.std(off) / len(off) ** 0.5
        assert abs(np.mean(off)) <= 4 * error + 1e-9, (known, np.mean(off), error)


def test_where_the_grid_is_known_only_by_its_size_the_index_tells_most_places() -> None:
    """The figures of all grids of 8 to 32 cells, by enumeration: 0.78, 0.68 and 0.78."""
    probe = PROBES["where"]((6, 4, 4))
    index = ceilings(probe, Range(), scenes=800)["index"]
    assert [round(index[k].right, 1) for k in ("when", "row", "column")] == [0.8, 0.7, 0.8]
    assert index["colour"].right == 1


def test_a_shuffle_of_seconds_leaves_squares_in_their_rows_and_columns_and_their_length() -> None:
    probe, drawn = scenes("events", 40)
    rng = np.random.default_rng(0)
    starts = []
    for scene in drawn:
        frame = scene.grid[1] * scene.grid[2]
        for before, after in zip(scene.marks, shown(probe, scene, "shuffled", rng)):
            assert before.cell % frame == after.cell % frame and before.lasts == after.lasts
            starts.append(before.cell == after.cell)
    assert 0 < np.mean(starts) < 0.5


def test_a_needle_s_look_alike_is_as_far_as_asked() -> None:
    probe, rng = Needle(apart=6), np.random.default_rng(0)
    for _ in range(30):
        a, b = (m.place((12, 2, 2))[0] for m in probe.marks(rng, (12, 2, 2)))
        assert abs(a - b) == 6


def test_a_clip_shows_each_second_twice_and_loses_nothing() -> None:
    av = pytest.importorskip("av")
    import io

    marks = (Mark("red", 1, 2), Mark("blue", 11))
    stills = frames((3, 2, 2), marks)
    data = clip(stills)
    assert data == clip(stills), "the same bytes for the same scene"
    with av.open(io.BytesIO(data)) as container:
        read = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(read) == 3 * FRAMES
    for i, picture in enumerate(read):
        assert np.array_equal(picture, np.asarray(stills[i // FRAMES]))
    at = stills[1].getpixel((SIDE + SIDE // 2, SIDE // 2))
    assert at == (220, 40, 40), "red stands in row 1, column 2 for two seconds"
    assert NAMES[0] == "red"
