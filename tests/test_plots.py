"""Figures for papers don't mislead: every cell is named, every group has its n, axes hold all."""

from __future__ import annotations

from typing import Any

import pytest

from evalkit.records import Record
from evalkit.results import plots
from evalkit.task import Metric
from tests.stored import record

TIERS = ("easy", "medium", "hard")
ACCURACY = Metric("accuracy")


def asked(wrong: bool, tiers: tuple[str, ...] = TIERS) -> list[Record]:
    """30 samples on three tiers, of 16 to 256 visual tokens, without those of tiers left out."""
    return [
        record(
            i, 0.0 if wrong else float(i % 4 > 0), tokens=4 ** (2 + i % 3), metadata={"tier": tier}
        )
        for i in range(30)
        if (tier := TIERS[i % 3]) in tiers
    ]


def drawn(figure: Any | None) -> Any:
    assert figure is not None
    return figure


def points(axis: Any) -> int:
    """Marks in a panel."""
    return sum(line.get_marker() not in ("", "None") for line in axis.get_lines())


def test_a_cell_that_has_no_sample_in_a_group_is_named_and_drawn_in_the_others() -> None:
    cells = {"first": asked(True, TIERS[1:]), "second": asked(False)}
    figure = drawn(plots.by_group(cells, "tier", ACCURACY))
    axes = figure.get_axes()
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["first", "second"]
    assert [a.get_title() for a in axes] == [f"{tier}\nn = 10" for tier in TIERS]
    assert [points(a) for a in axes] == [1, 2, 2]
    assert figure.get_supxlabel() == "accuracy by tier, 95 % interval"


@pytest.mark.parametrize("wrong", [True, False])
def test_all_that_is_drawn_lies_inside_an_axis_from_nought_to_the_scale(wrong: bool) -> None:
    figure = drawn(plots.by_group({"a": asked(wrong), "b": asked(True)}, "tier", ACCURACY))
    for axis in figure.get_axes():
        low, high = axis.get_xlim()
        assert -5 < low < 0 and 100 < high < 105
        assert axis.get_ylim() == (-1.5, 0.5)


def test_a_legend_has_each_cells_n_and_lies_outside_the_points() -> None:
    figure = drawn(plots.length_curve({"a": asked(True), "b": asked(False, TIERS[:2])}, ACCURACY))
    (axis,) = figure.get_axes()
    legend = axis.get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["a (n = 30)", "b (n = 20)"]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y0 >= axis.get_window_extent().y1
    low, high = axis.get_ylim()
    assert low < 0 and high > 100


def test_many_cells_have_a_panel_each_beside_the_first() -> None:
    cells = {f"cell {i}": asked(i % 2 == 0) for i in range(plots.OVERLAID + 3)}
    axes = drawn(plots.length_curve(cells, ACCURACY)).get_axes()
    titles = [a.get_title() for a in axes if a.get_visible()]
    assert titles == [f"{name} (n = 30)" for name in cells]
