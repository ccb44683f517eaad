"""A verb killed or failed at any system call on its output folder, then repeated: what an
undisturbed one would have left, nothing lost, nothing doubled.

The quick tests try a few calls of each verb, the slow ones every call.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from evalkit.store import CellFolder, cells
from tests.faults import BROKEN, FORBIDDEN, FULL, Action, Faults, Try, faults

PLUGINS = Path(__file__).parent / "plugins"
LIGHT = (
    "pandas,scipy.stats,tqdm,evalkit.api,evalkit.plan,evalkit.results.leaderboard,evalkit.runner,"
    "evalkit.results.report.page,evalkit.results.sweep_tables,evalkit.results.rescore,"
    "evalkit.sweeps,matplotlib.figure,matplotlib.pyplot"
)
TORCH = "pandas,matplotlib.figure,matplotlib.pyplot,tests.faults.quick"
SUMS, ADDER = PLUGINS / "sums.py", PLUGINS / "adder.py"
RUN = ("run", "--tasks", str(SUMS), "--adapter", str(ADDER), "--limit", "12")
SWEEP = f"""
name: s
question: Which?
tasks: ["{SUMS}"]
adapter: "{ADDER}"
axes: {{wrong: [5, 3]}}
baseline: {{wrong: 5}}
limit: 5
"""
SIZE = (
    "{vision_depth: 1, vision_width: 32, vision_heads: 1, "
    "depth: 1, width: 32, heads: 1, intermediate: 32}"
)
RECIPE = f"""
name: t
batch: 1
warmup: 1
ahead: 2
bfloat16: false
model: {SIZE}
families: {{grids: {{}}}}
stages: [{{name: all, steps: 2, weights: {{grids: 1.0}}}}]
"""
TWINS = f"""
name: t
question: Which?
seeds: [0]
baseline: a
arms: {{a: {{}}, b: {{switches: {{position: rope1d}}}}}}
recipe:
  batch: 1
  warmup: 1
  ahead: 2
  bfloat16: false
  model: {SIZE}
  families: {{grids: {{gate: null}}}}
  stages: [{{name: all, steps: 1, weights: {{grids: 1.0}}}}]
conditions: {{pages: {{family: grids, difficulty: 0.1, scenes: 1}}}}
"""
STUDY = """
name: t
question: Which?
seeds: 2
factors: {scheme: {three: {switches: {position: mrope}}, one: {switches: {position: rope1d}}}}
grid: [scheme]
conditions: {trained sizes: {scenes: 8}, shuffled: {view: shuffled, scenes: 8}}
"""


@dataclass(frozen=True)
class Verb:
    """A command that is disturbed. ``before``: commands that make the folder that it finds.
    ``some``: a few calls to try, by their place among all (0 to 1).
    """

    name: str
    argv: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    some: tuple[tuple[float, Action], ...] = ((0.3, "kill before"), (0.7, "kill half-way"))


VERBS = (
    Verb("run", RUN, some=((0, "kill before"), (0.3, "kill half-way"), (0.9, "kill after"))),
    Verb("leaderboard", ("leaderboard",), (RUN,)),
    Verb("report", ("report",), (RUN,)),
    Verb("rescore", ("rescore",), (RUN,)),
    Verb("sweep", ("sweep", "in.yaml"), files=(("in.yaml", SWEEP),)),
)
TRAINERS = (
    Verb("train", ("train", "in.yaml", "--threads", "1"), files=(("in.yaml", RECIPE),)),
    Verb("twins", ("twins", "in.yaml", "--threads", "1"), files=(("in.yaml", TWINS),)),
    Verb("study", ("study", "in.yaml", "--workers", "1"), files=(("in.yaml", STUDY),)),
)
KILLS: tuple[Action, ...] = ("kill before", "kill half-way", "kill after")
ERRORS = (FULL, BROKEN, FORBIDDEN)
by_name = {"ids": lambda verb: verb.name if isinstance(verb, Verb) else str(verb)}


class Bench:
    """One verb in a folder of its own, which is put back before each try."""

    def __init__(self, server: Faults, verb: Verb, folder: Path) -> None:
        self.server, self.verb = server, verb
        self.output, self.start = folder / "out", folder / "start"
        self.inputs = {name: folder / name for name, _ in verb.files}
        for name, content in verb.files:
            self.inputs[name].write_text(content)
        for argv in verb.before:
            assert self.command(argv).code == 0
        self.output.mkdir(exist_ok=True)
        shutil.copytree(self.output, self.start)
        whole = self.run()
        assert whole.code == 0, whole
        self.calls, self.whole = whole.calls, left(self.output)
        self.reads = self.anew("fail to read", -1).calls

    def command(
        self, argv: Sequence[str], n: int = -1, action: Action = "count", error: int = FULL
    ) -> Try:
        placed = [str(self.inputs.get(a, a)) for a in argv]
        return self.server.run(
            [*placed, "--output", str(self.output)], self.output, n, action, error
        )

    def run(self, n: int = -1, action: Action = "count", error: int = FULL) -> Try:
        return self.command(self.verb.argv, n, action, error)

    def anew(self, action: Action, n: int, error: int = FULL) -> Try:
        """The verb on the folder as it was in the beginning, with a fault at its n-th call."""
        shutil.rmtree(self.output)
        shutil.copytree(self.start, self.output)
        return self.run(n, action, error)

    def kill_and_repeat(self, action: Action, n: int) -> None:
        """Checks that a repeat leaves what an undisturbed run does."""
        where = f"{action}, call {n} of {self.calls}"
        self.anew(action, n)
        kept = {(c.name, id) for c in cells(self.output) for id in c.scored()}
        repeated = self.run()
        assert repeated.code == 0, f"{where}: {repeated}"
        self.check_what_is_left(where)
        now = {(c.name, id) for c in cells(self.output) for id in c.scored()}
        assert kept <= now, f"{where}: what was scored is kept"
        for cell in cells(self.output):
            assert not doubled(cell), f"{where}: what was scored is not asked again"

    def fail_and_repeat(self, action: Action, n: int, error: int) -> None:
        """Checks that the failure is said, and that a repeat heals what it left."""
        where = f"{action}, call {n}"
        ended = self.anew(action, n, error)
        assert "Traceback" not in ended.err, f"{where}: {ended.err}"
        assert ended.code in (0, 1), f"{where}: {ended}"
        assert ended.code == 0 or "evalkit: " in ended.err, f"{where}: {ended}"
        repeated = self.run()
        assert repeated.code == 0, f"{where}: {repeated}"
        self.check_what_is_left(where)

    def check_what_is_left(self, where: str) -> None:
        now = left(self.output)
        differs = {n: (now.get(n), self.whole.get(n)) for n in sorted(now.keys() | self.whole)}
        differs = {name: first_difference(*p) for name, p in differs.items() if p[0] != p[1]}
        assert not differs, f"{where}: {differs}"


def left(output: Path) -> dict[str, Any]:
    """What a reader of a folder finds: tensors, and texts but for dates and times."""
    there: dict[str, Any] = {}
    for file in sorted(output.rglob("*")):
        name = str(file.relative_to(output))
        if file.suffix == ".safetensors":
            with safe_open(file, "np") as tensors:
                there[name] = {k: tensors.get_tensor(k).tobytes() for k in tensors.keys()}  # noqa: SIM118
        elif file.suffix == ".png":
            there[name] = file.stat().st_size > 0
        elif file.is_dir():
            there[name] = "folder"
        elif file.name == "report.html":
            # Its words in any order: samples come as they came, pictures hold durations.
            there[name] = sorted(re.findall(r"\b[A-Za-z]{3,}\b", file.read_text()))
        elif "runs" not in file.parts:
            there[name] = without_times(file.read_text())
    for cell in cells(output):
        records = {id: record.scores for id, record in sorted(cell.records().items())}
        there[cell.name] = records, cell.results.metrics, cell.results.complete
    return there


def first_difference(one: Any, other: Any) -> tuple[Any, Any]:
    """Of two texts the parts where they begin to differ, of two lists of words those that the
    other has not, of other things themselves.
    """
    if isinstance(one, list) and isinstance(other, list):
        mine, theirs = Counter(one), Counter(other)
        return mine - theirs, theirs - mine
    if not (isinstance(one, str) and isinstance(other, str)):
        return one, other
    pairs = enumerate(zip(one, other))
    start = max(next((i for i, (a, b) in pairs if a != b), 0) - 80, 0)
    return one[start : start + 160], other[start : start + 160]


def without_times(text: str) -> str:
    """Dates and durations stand for themselves in what is written, and differ each time."""
    text = re.sub(r"\d{4}-\d\d-\d\d(T[\d:+.]+)?", "DATE", text)
    text = re.sub(r"\d+ (seconds|minutes) of computing", "NUMBER of computing", text)
    return re.sub(r"\b\d+\.\d+\b", "NUMBER", text)


def doubled(cell: CellFolder) -> list[str]:
    """Ids that the journal holds more than once."""
    lines = map(json.loads, cell.journal_path.read_text().splitlines())
    ids = Counter(line["id"] for line in lines if "id" in line)
    return [id for id, times in ids.items() if times > 1]


def turns(verb: Verb, which: int, calls: int) -> range:
    """The calls that the first, second or third of three faults is tried on: all of them, or, where
    a try takes seconds, one in three, so that each call meets with one of the faults.
    """
    return range(which, calls, 3) if verb in TRAINERS else range(calls)


Make = Callable[[Verb], Bench]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Benches, each made once; the servers start when they are needed."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        servers: dict[str, Faults] = {}
        benches: dict[str, Bench] = {}

        def bench(verb: Verb) -> Bench:
            imports = TORCH if verb in TRAINERS else LIGHT
            if imports not in servers:
                server = faults(tmp_path_factory.mktemp("library"), imports)
                servers[imports] = stack.enter_context(server)
            if verb.name not in benches:
                folder = tmp_path_factory.mktemp(verb.name)
                benches[verb.name] = Bench(servers[imports], verb, folder)
            return benches[verb.name]

        yield bench


@pytest.mark.parametrize("verb", VERBS, **by_name)
def test_a_verb_killed_at_some_calls_ends_as_an_undisturbed_one(make: Make, verb: Verb) -> None:
    bench = make(verb)
    for place, action in verb.some:
        bench.kill_and_repeat(action, int(place * bench.calls))


@pytest.mark.slow
@pytest.mark.parametrize("action", KILLS)
@pytest.mark.parametrize("verb", [*VERBS, *TRAINERS], **by_name)
def test_a_verb_killed_at_any_call_ends_as_an_undisturbed_one(
    make: Make, verb: Verb, action: Action
) -> None:
    bench = make(verb)
    for n in turns(verb, KILLS.index(action), bench.calls):
        bench.kill_and_repeat(action, n)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=["full", "broken", "forbidden"])
@pytest.mark.parametrize("verb", [*VERBS, *TRAINERS], **by_name)
def test_a_verb_whose_disk_fails_at_any_call_says_so_and_a_repeat_heals(
    make: Make, verb: Verb, error: int
) -> None:
    bench = make(verb)
    for n in turns(verb, ERRORS.index(error), bench.calls):
        bench.fail_and_repeat("fail", n, error)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [*VERBS, *TRAINERS], **by_name)
def test_a_verb_that_cannot_read_at_any_call_says_so_and_a_repeat_heals(
    make: Make, verb: Verb
) -> None:
    bench = make(verb)
    for n in range(bench.reads):
        bench.fail_and_repeat("fail to read", n, BROKEN)
