"""A command killed or failed at any system call on its output folder, then repeated: the tables of
an undisturbed run, nothing lost, nothing doubled.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalkit.store import CellFolder, cells
from tests.faults import BROKEN, FORBIDDEN, FULL, Action, Faults, faults

PLUGINS = Path(__file__).parent / "plugins"
IMPORTS = "pandas,scipy.stats,tqdm,evalkit.api,evalkit.results.leaderboard,evalkit.runner"
RUN = ["run", "--tasks", str(PLUGINS / "sums.py"), "--adapter", str(PLUGINS / "adder.py")]
KILLS: tuple[Action, ...] = ("kill before", "kill half-way", "kill after")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    with faults(tmp_path_factory.mktemp("faults"), IMPORTS) as started:
        yield started


def run(
    server: Faults, output: Path, n: int = -1, action: Action = "count", error: int = FULL
) -> int:
    return server.run([*RUN, "--output", str(output)], output, n, action, error).code


def tables(output: Path) -> list[object]:
    """What a reader sees: every cell's records and metrics, seconds and dates apart."""
    return [
        (c.task, sorted(c.records()), c.results.metrics, c.results.complete) for c in cells(output)
    ]


def doubled(cell: CellFolder) -> list[str]:
    """Ids that the journal holds more than once."""
    lines = [line for line in cell.journal_path.read_text().splitlines() if '"id"' in line]
    ids = [line.split('"id": "')[1].split('"')[0] for line in lines]
    return [id for id in set(ids) if ids.count(id) > 1]


def killed_and_repeated(server: Faults, output: Path, n: int, action: Action) -> list[object]:
    shutil.rmtree(output, ignore_errors=True)
    run(server, output, n, action)
    kept = {id for c in cells(output) for id in c.scored()} if output.exists() else set()
    assert run(server, output) == 0
    (cell,) = cells(output)
    assert kept <= set(cell.scored()), "what was scored is kept"
    assert not doubled(cell), "what was scored is not asked again"
    leftover = [p.name for p in output.rglob("*") if "part" in p.suffix]
    assert not leftover, "a repeat removes what a killed writer left"
    return tables(output)


def test_a_run_killed_at_some_system_calls_ends_as_an_undisturbed_one(
    server: Faults, tmp_path: Path
) -> None:
    assert run(server, tmp_path / "whole") == 0
    whole = tables(tmp_path / "whole")
    for n, action in (
        (0, "kill before"),
        (12, "kill half-way"),
        (25, "kill after"),
        (44, "kill before"),
    ):
        assert killed_and_repeated(server, tmp_path / "killed", n, action) == whole  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("action", KILLS)
def test_a_run_killed_at_every_system_call_ends_as_an_undisturbed_one(
    server: Faults, tmp_path: Path, action: Action
) -> None:
    calls = server.run([*RUN, "--output", str(tmp_path / "whole")], tmp_path / "whole").calls
    whole = tables(tmp_path / "whole")
    assert calls > 20
    for n in range(calls):
        assert killed_and_repeated(server, tmp_path / "killed", n, action) == whole, f"call {n}"


@pytest.mark.slow
@pytest.mark.xfail(
    strict=False, reason="a journal or a table that can't be read ends in a traceback"
)
@pytest.mark.parametrize("error", [FULL, BROKEN, FORBIDDEN])
def test_a_run_whose_disk_fails_at_any_call_says_so_and_goes_on_when_repeated(
    server: Faults, tmp_path: Path, error: int
) -> None:
    calls = server.run([*RUN, "--output", str(tmp_path / "whole")], tmp_path / "whole").calls
    whole = tables(tmp_path / "whole")
    for n in range(calls):
        output = tmp_path / "failed"
        shutil.rmtree(output, ignore_errors=True)
        found = server.run([*RUN, "--output", str(output)], output, n, "fail", error)
        assert "Traceback" not in found.err, f"call {n}: {found.err}"
        if found.code:
            assert found.code == 1 and "evalkit:" in found.err, f"call {n}: {found}"
        assert run(server, output) == 0
        assert tables(output) == whole, f"call {n}"
