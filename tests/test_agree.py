"""Two back ends compared answer by answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evalkit
from evalkit.cli.main import main
from evalkit.errors import UsageError
from evalkit.results.agreement import agreement_text
from tests.runs import SUMS

ADDER = str(Path(__file__).parent / "plugins" / "adder.py")
RIGHT, WRONG = f"{ADDER}:adder,wrong=1000", f"{ADDER}:adder,wrong=4"


def test_equal_back_ends_agree_and_others_part_where_they_do(tmp_path: Path) -> None:
    (same,) = evalkit.agree(RIGHT, RIGHT, SUMS, output=tmp_path, progress=False)
    assert (same.n, same.equal, same.first, same.differences) == (40, 1.0, None, ())
    (parted,) = evalkit.agree(RIGHT, WRONG, SUMS, output=tmp_path, progress=False)
    differing = {d.id for d in parted.differences}
    assert differing == {f"sum/{n}" for n in range(4, 40, 4)}  # 0 is wrong for both
    assert parted.equal == pytest.approx(1 - len(differing) / 40)
    assert parted.low is not None and parted.low < parted.equal < (parted.high or 0)
    assert parted.scores and parted.scores.difference == pytest.approx(100 * len(differing) / 40)
    first = parted.differences[0]
    assert (first.id, first.at, first.a, first.b) == ("sum/4", 0, "8", "9")
    assert '"8" / "9"' in agreement_text([parted], RIGHT, WRONG)


def test_the_verb_says_how_many_agree_and_fails_under_a_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["agree", RIGHT, WRONG, "--tasks", SUMS, "--output", str(tmp_path), "-q"]
    assert main([*command, "--at-least", "50%"]) == 0
    assert main([*command, "--at-least", "0.99"]) == 1
    out, err = capsys.readouterr()
    assert "sums:all  40" in out and "equal, under 99.0%" in err
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["n"] == 40


def test_a_side_that_is_not_understood_is_refused() -> None:
    with pytest.raises(UsageError, match="expected NAME=VALUE"):
        evalkit.agree(f"{ADDER}:adder,fast", RIGHT, SUMS)
