"""A study's page: the question, which hypotheses held, tables and figures, and how it was made.

Written so that a reader of the first screen takes the right thing home.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml

from evalkit.errors import UsageError
from evalkit.files import remove_parts, replace, replace_json
from evalkit.lab import analysis, tables
from evalkit.lab.analysis import HypothesisTest, mean_scores
from evalkit.lab.csv_files import curves_csv, effects_csv, scores_csv
from evalkit.lab.figures import write_figures
from evalkit.lab.schedule import FinishedRun
from evalkit.lab.stored import CURVES, EFFECTS, PAGE, SCORES
from evalkit.lab.study import Study
from evalkit.palette import NO_PICTURES
from evalkit.stats import LEVEL

HYPOTHESES = "hypotheses.json"
SCHEMA_VERSION = 2
HEADER = re.compile(
    r"<!-- schema_version: (?P<version>\d+); made by: (?P<command>.*); study (?P<digest>\w+) -->"
)


def is_current(study: Study, folder: Path, command: str) -> bool:
    """Whether the folder's page is that of this study, as its file says it now, and command, as
    pages are today.
    """
    made = _header(folder)
    own = (str(SCHEMA_VERSION), command, _digest(study))
    return bool(made and made.groups() == own)


def check_own(study: Study, folder: Path, command: str) -> None:
    """Raises UsageError where the folder has the page of another study, which this one would
    overwrite: it was made by another file, which has since then other contents too, or from another
    checkpoint.
    """
    made = _header(folder)
    if made is None or _what(made["command"]) == _what(command):
        return
    same_start = _start(made["command"]) == _start(command)
    if not (same_start and made["digest"] == _digest(study)):
        raise UsageError(
            f"{folder / PAGE}: there is the page of another study, `{made['command']}`: give this "
            f"one a `name` of its own, or another --output (or, if it is that study under another "
            f"path, remove {PAGE})"
        )


def _header(folder: Path) -> re.Match[str] | None:
    """Command and digest of the study that a folder's page was made by."""
    page = folder / PAGE
    return HEADER.match(page.read_text(encoding="utf-8")) if page.is_file() else None


def _what(command: str) -> str:
    """A command without what makes no other study of it."""
    return re.sub(r" --(seeds|device) \S+", "", command)


def _start(command: str) -> str:
    return command.partition(" --start ")[2]


def state_hypotheses(study: Study, folder: Path) -> None:
    """Writes down the hypotheses before the first run, where none were stated before."""
    path = folder / HYPOTHESES
    if not path.is_file():
        stated = [h.model_dump(mode="json") for h in study.hypotheses]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        replace_json(path, {"schema_version": 1, "stated": now, "hypotheses": stated})


def when_stated(study: Study, folder: Path) -> str:
    """In words, whether the hypotheses are those that were stated before the first run."""
    path = folder / HYPOTHESES
    if not path.is_file():
        return "no record of when they were stated"
    stated = json.loads(path.read_text(encoding="utf-8"))["hypotheses"]
    same = stated == [h.model_dump(mode="json") for h in study.hypotheses]
    return "stated before the run" if same else "CHANGED after the run"


def _digest(study: Study) -> str:
    return hashlib.sha256(study.model_dump_json().encode()).hexdigest()[:12]


def write(
    study: Study, runs: Sequence[FinishedRun], folder: Path, command: str, start: str = ""
) -> Path:
    """Writes ``README.md``, the tables of ``stored``, and figures; returns the page. ``start``:
    the checkpoint that all arms were fine-tuned from. Where matplotlib is missing, the page says
    so.
    """
    tested = analysis.test_hypotheses(study, runs)
    remove_parts(folder)
    try:
        pictures, missing = write_figures(study, runs, folder), ""
    except ImportError:
        pictures, missing = [], f"\nNo figures: {NO_PICTURES}.\n"
    replace(folder / EFFECTS, effects_csv(study, runs))
    replace(folder / SCORES, scores_csv(study, runs))
    replace(folder / CURVES, curves_csv(study, runs))
    page = folder / PAGE
    stated = when_stated(study, folder)
    replace(page, text(study, runs, tested, pictures, command, stated, start) + missing)
    return page


def text(
    study: Study,
    runs: Sequence[FinishedRun],
    tested: Sequence[HypothesisTest],
    pictures: Sequence[Path],
    command: str,
    stated: str,
    start: str = "",
) -> str:
    """The page as markdown; ``pictures`` lie beside it, and ``command`` makes it again. ``stated``:
    in words, when the hypotheses were.
    """
    arms = study.arms()
    total = len(list(study.runs()))
    seeds = [len({f.run.seed for f in runs if f.arm == a and f.run.rate == 1}) for a in arms]
    each = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} or {max(seeds)}"
    seconds = sum(f.result.seconds for f in runs)
    shown = {p.stem: f"\n![{p.stem}]({p.name})\n" for p in pictures}
    lines = [
        f"<!-- schema_version: {SCHEMA_VERSION}; made by: {command}; study {_digest(study)} -->",
        f"# {study.name}",
        "",
        study.question.strip(),
        "",
        *([f"**Incomplete: {len(runs)} of {total} runs.**", ""] if len(runs) < total else []),
        *in_short(study, runs, tested),
        *hypotheses_section(study, runs, tested, stated),
        shown.get("forest", ""),
        *([] if start else phase_section(study)),
        "## Within the trained sizes",
        "",
        *tables.scores_table(study, runs, study.first_condition),
        "",
        *tables.answers_table(study, runs, study.first_condition),
        shown.get("heat", ""),
        *ceilings_section(study, runs),
        *size_section(study, runs, shown.get("sizes", "")),
        *interactions_section(study, runs),
        *beyond_section(study, runs),
        shown.get("curves", ""),
        "## Learning",
        "",
        *tables.learning_table(study, runs),
        "",
        "## How it was made",
        "",
        f"{len(arms)} arms, {each} seeds each, {study.steps} steps of {study.batch} "
        f"scenes{_before(study)}, {_sizes(runs)} million parameters; initialisation and scenes are "
        f"those of the seed, the same in all arms. {len(runs)} runs, {_time(seconds)} of computing"
        f"{_where(runs)}, {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"What it doesn't say: {_limits(study, runs, start)}",
        "",
        "```yaml",
        yaml.safe_dump(
            study.model_dump(mode="json", exclude_defaults=True), sort_keys=False
        ).strip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def in_short(
    study: Study, runs: Sequence[FinishedRun], tested: Sequence[HypothesisTest]
) -> list[str]:
    """A line a hypothesis: what came of it, in nats and in shares right, for one who reads no
    further; and a line each on the controls and the ceiling.
    """
    lines = []
    for t in tested:
        h = t.hypothesis
        sides = []
        for arm in (study.arm(h.a), study.arm(h.b)):
            scores = mean_scores(runs, arm, h.condition, h.kind)
            sides.append(f"{arm.name} {100 * scores.right:.0f} %" if scores else f"{arm.name} –")
        verdict = tables.VERDICTS[t.verdict].strip("*").capitalize()
        size = f" {tables.finding(h, t.effect)}" if t.effect else ""
        lines.append(
            f'- **{verdict}**: {h.claim}{size} Right on "{h.kind}", {h.condition}: '
            f"{'; '.join(sides)}.{_narrower(study, runs, t)}{_nothing_known(study, runs, t)}"
        )
    return [*lines, *tables.control_sentences(study, runs), ""]


def _nothing_known(study: Study, runs: Sequence[FinishedRun], t: HypothesisTest) -> str:
    """Whether both arms are at chance, so that they are alike in having learnt nothing."""
    chance = tables.at_chance(study, runs, t.hypothesis)
    return f" BOTH AT CHANCE ({100 * chance:.0f} %): neither has learnt it." if chance else ""


def _narrower(study: Study, runs: Sequence[FinishedRun], t: HypothesisTest) -> str:
    """The kinds of questions on which a difference may be worth having that isn't on another that
    asks for places too.
    """
    h = t.hypothesis
    if h.within is None or t.verdict != "held" or h.kind not in study.places:
        return ""
    level = LEVEL / max(analysis.number_of_tests(study, runs), 1)
    open_ = []
    for kind in study.places:
        e = analysis.effect(runs, study.arm(h.a), study.arm(h.b), h.condition, kind, level)
        if e and not -h.within < e.low <= e.high < h.within:
            open_.append(f"{kind} {tables.interval(e)}")
    return f" NOT shown on {'; '.join(open_)}." if open_ else ""


def size_section(study: Study, runs: Sequence[FinishedRun], picture: str) -> list[str]:
    """Effects against size; nothing where arms don't differ in it."""
    if not analysis.size_factor(study):
        return []
    return [
        "## Effect against size",
        "",
        "NLL minus that of the baseline of the same size, in nats, at the trained sizes of scenes, "
        "with 95 % intervals. An effect carries over where its sign is clear and the same at "
        "three sizes.",
        picture,
        *tables.size_table(study, runs),
        "",
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _where(runs: Sequence[FinishedRun]) -> str:
    """The devices and versions of torch that the runs' results name."""
    made = sorted({f.result.made for f in runs} - {""})
    return f" ({'; '.join(made)})" if made else ""


def _sizes(runs: Sequence[FinishedRun]) -> str:
    """The smallest and the largest number of parameters, in millions."""
    ends = sorted({f"{f.result.parameters / 1e6:.2f}" for f in runs}, key=float)
    return " to ".join(dict.fromkeys((ends[0], ends[-1]))) if ends else "–"


def _before(study: Study) -> str:
    """What arms were trained on before."""
    starts = [s for a in study.arms() if (s := study.run(a, 0).start)]
    said = (f"{s.steps} steps of {s.probe or 'scenes written as words'}" for s in starts)
    return f" after {' or '.join(dict.fromkeys(said))}" if starts else ""


def _limits(study: Study, runs: Sequence[FinishedRun], start: str) -> str:
    """How far the results carry."""
    if start:
        return (
            f"every arm adapted {start} in {study.steps} steps of {study.batch} questions, its "
            "vision tower frozen: what is seen is what so little training can change."
        )
    text = any(s and not s.probe for s in (study.run(a, 0).start for a in study.arms()))
    begun = "from models that had read text" if text else "from nothing"
    return (
        f"these are models of {_sizes(runs)} million parameters, trained {begun}"
        f"{_tower(study)}. Sign and mechanism can be taken from here, magnitudes can't."
    )


def _tower(study: Study) -> str:
    """What is said of the tower where every arm's sees one cell at a time."""
    shows = [study.run(arm, 0).shows for arm in study.arms()]
    alone = all(one.tower == "cell" and not one.drawn for one in shows)
    return ", whose tower sees one cell at a time" if alone else ""


def summary(study: Study, runs: Sequence[FinishedRun]) -> str:
    """One line a hypothesis, for a terminal."""
    lines = []
    for t in analysis.test_hypotheses(study, runs):
        size = tables.finding(t.hypothesis, t.effect) if t.effect else "no two seeds"
        told = f"{t.hypothesis.claim} {size}{_nothing_known(study, runs, t)}"
        lines.append(f"{t.hypothesis.name} {t.verdict}: {told}")
    return "\n".join(lines)


def hypotheses_section(
    study: Study, runs: Sequence[FinishedRun], tested: Sequence[HypothesisTest], stated: str
) -> list[str]:
    """The hypotheses and which of them held."""
    if not study.hypotheses:
        return ["## No hypotheses", "", "The study states none."]
    changed = [f"What was stated before the first run is in `{HYPOTHESES}`.", ""]
    return [
        f"## Hypotheses, {stated}",
        "",
        *(changed if "CHANGED" in stated else []),
        *tables.hypotheses_table(study, tested),
        "",
        "Differences are of NLL in nats an answer, first arm minus second, paired over seeds; the "
        "intervals hold together at 95 % (Bonferroni over "
        f"{analysis.number_of_tests(study, runs)}). An effect *held* when its interval lies beyond "
        "the smallest effect of interest. *Would show*: what lies so far from 0 is told from it by "
        "such an interval in four of five such studies.",
    ]


def ceilings_section(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """What can be known from less than everything, and whether an arm knows as much."""
    return [
        "## Ceilings",
        "",
        "The share right of an ideal observer, and of the arm that comes nearest to it when shown "
        f"as much (of index and number: of those that have 1D positions). Met: to {tables.NEAR:g}.",
        "",
        *tables.ceilings_table(study, runs),
        "",
    ]


def interactions_section(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Two choices together; nothing where no two are crossed."""
    table = tables.interactions_table(study, runs)
    return ["## Two choices together", "", *table, ""] if table else []


def phase_section(study: Study) -> list[str]:
    """What positions can tell at all; of the lab's own models."""
    return [
        "## How far positions turn",
        "",
        "Turns of the slowest and the fastest rotary frequency over the trained span of an axis. "
        "Far below a hundredth of a turn neighbours look alike; above one turn they come round "
        "again.",
        "",
        *tables.phase_table(study),
        "",
    ]


def _beyond(study: Study) -> list[str]:
    """The conditions that show everything, but for the first."""
    conditions = study.conditions.items()
    return [n for n, c in conditions if c.view == "whole" and n != study.first_condition]


def beyond_section(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """What became of the arms in the other conditions; nothing where there are none."""
    if not _beyond(study):
        return []
    clamped = any(c.text == "clamped" for c in study.conditions.values())
    return [
        "## Beyond the trained sizes",
        "",
        *(
            [
                "Twice: with text where the scheme puts it (*released*), and with text no further "
                "away than in training (*clamped*). Where only the first is bad, the model fails "
                "on the text's positions, not on those of the scene.",
                "",
            ]
            if clamped
            else []
        ),
        *tables.beyond_table(study, runs, _beyond(study)),
    ]
