"""A study's page: the question, which hypotheses held, tables and figures, and how it was made.

Written so that a reader of the first screen takes the right thing home.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from evalkit.files import remove_parts, replace, replace_json
from evalkit.lab import analysis, phases
from evalkit.lab.analysis import HypothesisTest, MeanScores, mean_scores
from evalkit.lab.csv_files import curves_csv, effects_csv, scores_csv
from evalkit.lab.figures import write_figures
from evalkit.lab.schedule import FinishedRun
from evalkit.lab.stored import CURVES, EFFECTS, PAGE, SCORES
from evalkit.lab.study import Study
from evalkit.probes.oracle import KNOWLEDGE, Ceiling, ceilings
from evalkit.probes.scene import Knowledge

VERDICTS = {
    "held": "**held**",
    "refuted": "**refuted**",
    "undecided": "undecided",
    "not run": "not run",
}
HYPOTHESES = "hypotheses.json"
KNOWN: Mapping[Knowledge, str] = {
    "whole": "knows everything",
    "shuffled": "sees the marks elsewhere (shuffled)",
    "blind": "sees the grid's size alone (blind)",
    "first_second": "sees the first second alone",
    "index": "knows indices and the number of tokens (all that 1D tells)",
}
"""Ideal observers, as the tables name them."""
CHANCE_MARGIN = 0.03
"""How far above chance, as a share right, the shuffled view may be."""


def is_current(study: Study, folder: Path) -> bool:
    """Whether the folder's page is that of this study, as its file says it now."""
    page = folder / PAGE
    return page.is_file() and _digest(study) in page.read_text(encoding="utf-8")


def state_hypotheses(study: Study, folder: Path) -> None:
    """Writes down the hypotheses before the first run, where none were stated before."""
    path = folder / HYPOTHESES
    if not path.is_file():
        stated = [h.model_dump(mode="json") for h in study.hypotheses]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        replace_json(path, {"schema_version": 1, "stated": now, "hypotheses": stated})


def hypotheses_as_stated(study: Study, folder: Path) -> bool:
    """Whether the hypotheses are those that were stated before the first run."""
    path = folder / HYPOTHESES
    if not path.is_file():
        return True
    stated = json.loads(path.read_text(encoding="utf-8"))["hypotheses"]
    return bool(stated == [h.model_dump(mode="json") for h in study.hypotheses])


def _digest(study: Study) -> str:
    return hashlib.sha256(study.model_dump_json().encode()).hexdigest()[:12]


def write(
    study: Study, runs: Sequence[FinishedRun], folder: Path, command: str, start: str = ""
) -> Path:
    """Writes ``README.md``, the tables of ``stored``, and figures; returns the page. ``start``:
    the checkpoint that all arms were fine-tuned from.
    """
    tested = analysis.test_hypotheses(study, runs)
    remove_parts(folder)
    pictures = write_figures(study, runs, folder)
    replace(folder / EFFECTS, effects_csv(study, runs))
    replace(folder / SCORES, scores_csv(study, runs))
    replace(folder / CURVES, curves_csv(study, runs))
    page = folder / PAGE
    as_stated = hypotheses_as_stated(study, folder)
    replace(page, text(study, runs, tested, pictures, command, as_stated, start))
    return page


def text(
    study: Study,
    runs: Sequence[FinishedRun],
    tested: Sequence[HypothesisTest],
    pictures: Sequence[Path],
    command: str,
    as_stated: bool = True,
    start: str = "",
) -> str:
    """The page as markdown; ``pictures`` lie beside it, and ``command`` makes it again.
    ``as_stated``: whether the hypotheses are those from before the run.
    """
    arms = study.arms()
    total = len(list(study.runs()))
    seeds = [len({f.run.seed for f in runs if f.arm == a and f.run.rate == 1}) for a in arms]
    each = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} or {max(seeds)}"
    parameters = runs[0].result.parameters if runs else 0
    seconds = sum(f.result.seconds for f in runs)
    shown = {p.stem: f"\n![{p.stem}]({p.name})\n" for p in pictures}
    lines = [
        f"<!-- schema_version: 1; made by: {command}; study {_digest(study)} -->",
        f"# {study.name}",
        "",
        study.question.strip(),
        "",
        *([f"**Incomplete: {len(runs)} of {total} runs.**", ""] if len(runs) < total else []),
        *in_short(study, runs, tested),
        *hypotheses_section(study, tested, as_stated),
        shown.get("forest", ""),
        "## Within the trained sizes",
        "",
        *scores_table(study, runs, study.first_condition),
        "",
        *control_sentences(study, runs),
        "",
        *answers_table(study, runs, study.first_condition),
        shown.get("heat", ""),
        *size_section(study, runs, shown.get("sizes", "")),
        *([] if start else phase_section(study)),
        *beyond_section(study, runs),
        shown.get("curves", ""),
        "## Learning",
        "",
        *learning_table(study, runs),
        "",
        "## How it was made",
        "",
        f"{len(arms)} arms, {each} seeds each, {study.steps} steps of {study.batch} "
        f"scenes, {parameters / 1e6:.2f} million parameters; initialisation and scenes are those "
        f"of the seed, the same in all arms. {len(runs)} runs, {_time(seconds)} of computing"
        f"{_where(runs)}, {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"What it doesn't say: {_limits(study, parameters, start)}",
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
    """A line a hypothesis: what came of it, in shares right, for one who reads no further."""
    lines = []
    for t in tested:
        h = t.hypothesis
        sides = []
        for arm in (study.arm(h.a), study.arm(h.b)):
            scores = mean_scores(runs, arm, h.condition, h.kind)
            sides.append(f"{arm.name} {100 * scores.right:.0f} %" if scores else f"{arm.name} –")
        verdict = VERDICTS[t.verdict].strip("*").capitalize()
        lines.append(
            f"- **{verdict}**: {h.claim} Right about the {h.kind} ({h.condition}): "
            f"{'; '.join(sides)}."
        )
    return [*lines, ""] if lines else []


def size_section(study: Study, runs: Sequence[FinishedRun], picture: str) -> list[str]:
    """Effects against size; nothing where arms don't differ in it."""
    if not analysis.size_factor(study):
        return []
    lines = [
        "## Effect against size",
        "",
        "NLL minus that of the baseline of the same size, in nats, at the trained sizes of scenes, "
        "with 95 % intervals. An effect carries over where its sign is clear and the same at "
        "three sizes.",
        picture,
        "| arm | kind | " + "effect (million parameters) | same sign |",
        "|---" * 4 + "|",
    ]
    for kind in study.kinds:
        by_arm = analysis.effects_by_size(study, runs, study.first_condition, kind)
        for name, effects in by_arm.items():
            said = "; ".join(
                f"{e.difference:+.2f} [{e.low:+.2f}, {e.high:+.2f}] ({parameters / 1e6:.1f})"
                for parameters, e in effects
            )
            signs = {e.difference > 0 for _, e in effects}
            clear = len(effects) > 2 and len(signs) == 1 and all(e.significant for _, e in effects)
            lines.append(f"| {name} | {kind} | {said} | {'yes' if clear else 'no'} |")
    return [*lines, ""]


def _time(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _where(runs: Sequence[FinishedRun]) -> str:
    """The devices and versions of torch that the runs' results name."""
    made = sorted({f.result.made for f in runs} - {""})
    return f" ({'; '.join(made)})" if made else ""


def _limits(study: Study, parameters: int, start: str) -> str:
    """How far the results carry."""
    if start:
        return (
            f"every arm adapted {start} in {study.steps} steps of {study.batch} questions, its "
            "vision tower frozen: what is seen is what so little training can change."
        )
    begun = "from a model that read text" if study.start else "from nothing"
    return (
        f"these are models of {parameters / 1e6:.1f} million parameters, trained {begun}"
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
        e = t.effect
        size = f"{e.difference:+.2f} [{e.low:+.2f}, {e.high:+.2f}] nats" if e else "no two seeds"
        lines.append(f"{t.hypothesis.name} {t.verdict}: {t.hypothesis.claim} {size}")
    return "\n".join(lines)


def hypotheses_section(
    study: Study, tested: Sequence[HypothesisTest], as_stated: bool
) -> list[str]:
    """The hypotheses and which of them held."""
    if not study.hypotheses:
        return ["## No hypotheses", "", "The study states none."]
    changed = [f"What was stated before the first run is in `{HYPOTHESES}`.", ""]
    return [
        f"## Hypotheses, {'stated before the run' if as_stated else 'CHANGED after the run'}",
        "",
        *([] if as_stated else changed),
        *hypotheses_table(study, tested),
        "",
        "Differences are of NLL in nats an answer, first arm minus second, paired over seeds; the "
        f"intervals hold together at 95 % (Bonferroni over {len(study.hypotheses)}). An effect "
        "*held* when its interval lies beyond the smallest effect of interest.",
    ]


def hypotheses_table(study: Study, tested: Sequence[HypothesisTest]) -> list[str]:
    """A hypothesis a row: its claim, the difference with its interval, and the verdict."""
    lines = [
        "| | claim | asked | difference | interval | bound | effect / seed noise | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for t in tested:
        h, e = t.hypothesis, t.effect
        bound = f"below {h.below:g}" if h.below is not None else f"within ±{h.within:g}"
        difference = interval = noise = "–"
        if e:
            noise = "no noise" if e.noise == 0 else f"{e.over_noise:.1f}"
            difference, interval = f"{e.difference:+.2f}", f"[{e.low:+.2f}, {e.high:+.2f}]"
        pair = f"{study.arm(h.a).name} − {study.arm(h.b).name}: {h.kind}, {h.condition}"
        lines.append(
            f"| {h.name} | {h.claim} | {pair} | {difference} | {interval} | {bound} | {noise} | "
            f"{VERDICTS[t.verdict]} |"
        )
    return lines


def scores_table(study: Study, runs: Sequence[FinishedRun], condition: str) -> list[str]:
    """The scores of every arm in one condition, above what ideal observers reach in it."""
    lines = [
        "NLL in nats, mean over seeds ± their standard deviation (share right). Below: what an "
        "ideal observer reaches with less than everything.",
        "",
        "| arm | " + " | ".join(study.kinds) + " |",
        "|---" * (len(study.kinds) + 1) + "|",
    ]
    for arm in study.arms():
        cells = [_cell(mean_scores(runs, arm, condition, k)) for k in study.kinds]
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    tops = _tops(study, condition)
    for known in KNOWLEDGE:
        cells = [
            f"{t.nll:.2f} ({t.right:.2f})" if (t := tops[known].get(k)) else "–"
            for k in study.kinds
        ]
        lines.append(f"| *{KNOWN[known]}* | {' | '.join(cells)} |")
    return lines


def _tops(study: Study, condition: str) -> Mapping[Knowledge, Mapping[str, Ceiling]]:
    """The ceilings of a condition's scenes."""
    given = study.conditions[condition]
    probe = study.run(study.arms()[0], 0).asks(given)
    return ceilings(probe, given.cells or study.grids)


def answers_table(study: Study, runs: Sequence[FinishedRun], condition: str) -> list[str]:
    """Greedy answers: right, another option, none of the options; and right when made to choose."""
    lines = [
        "Greedy answers in per cent, right / another option / no option at all; in brackets: right "
        "when made to choose among the options (chance: "
        + ", ".join(
            f"{k} {100 * _tops(study, condition)['blind'][k].right:.0f}" for k in study.kinds
        )
        + " for one who sees the grid alone).",
        "",
        "| arm | " + " | ".join(study.kinds) + " |",
        "|---" * (len(study.kinds) + 1) + "|",
    ]
    for arm in study.arms():
        cells = []
        for kind in study.kinds:
            m = mean_scores(runs, arm, condition, kind)
            if m is None:
                cells.append("–")
                continue
            shares = (m.right, m.valid - m.right, 1 - m.valid)
            three = " / ".join(f"{100 * share:.0f}" for share in shares)
            cells.append(f"{three} ({100 * m.choice:.0f})")
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    return lines


def _cell(scores: MeanScores | None) -> str:
    return "–" if scores is None else f"{scores.nll:.2f} ± {scores.spread:.2f} ({scores.right:.2f})"


def control_sentences(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Whether views that hide places are at chance, and the whole view reaches its ceiling."""
    lines = []
    for name, condition in study.conditions.items():
        if condition.view not in ("shuffled", "blind"):
            continue
        top = _tops(study, name)[condition.view]
        over = []
        for arm in study.arms():
            for kind in study.places:
                if kind not in top:
                    continue
                scores, ceiling = mean_scores(runs, arm, name, kind), top[kind].right
                if scores and scores.right > ceiling + CHANCE_MARGIN:
                    over.append(f"{arm.name}, {kind}: {scores.right:.2f} against {ceiling:.2f}")
        lines.append(
            f"- *{name}*: "
            + (
                "no arm is right more often than this view allows, so what the whole view adds is "
                "about positions."
                if not over
                else "ABOVE what this view allows: " + "; ".join(over) + "."
            )
        )
    reached = [
        f"{arm.name} ({kind})"
        for arm in study.arms()
        for kind in study.places
        if (scores := mean_scores(runs, arm, study.first_condition, kind)) and scores.right >= 0.98
    ]
    everyone = (
        f"- The ceiling of the whole view (all right) is met to 2 % by: {', '.join(reached)}."
    )
    lines.append(everyone if reached else "- No arm reaches the ceiling of the whole view.")
    return lines


def phase_section(study: Study) -> list[str]:
    """What positions can tell at all; of the lab's own models."""
    return [
        "## How far positions turn",
        "",
        "Turns of the slowest and the fastest rotary frequency over the trained span of an axis. "
        "Far below a hundredth of a turn neighbours look alike; above one turn they come round "
        "again.",
        "",
        *phase_table(study),
        "",
    ]


def phase_table(study: Study) -> list[str]:
    """How far each axis rotates the frequencies, an arm a row; one row for arms whose switches are
    the same, since text jitter moves nothing within a scene.
    """
    lines = ["| arm | " + " | ".join(phases.AXES) + " |", "|---" * 4 + "|"]
    shown: list[dict[str, Any]] = []
    for arm in study.arms():
        if (switches := study.run(arm, 0).switches) in shown:
            continue
        shown.append(switches)
        cells = [
            f"{t.slowest:.2g} … {t.fastest:.2g} ({t.frequencies})" if t.frequencies else "none"
            for t in phases.turns(study, arm).values()
        ]
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    return [*lines, "", "In brackets: how many frequencies the axis moves."]


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
        *beyond_table(study, runs),
    ]


def beyond_table(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """The scores of every arm in every whole-view condition but the first."""
    names = _beyond(study)
    lines = [
        "| condition | arm | " + " | ".join(study.kinds) + " |",
        "|---" * (len(study.kinds) + 2) + "|",
    ]
    for name in names:
        for arm in study.arms():
            cells = [_cell(mean_scores(runs, arm, name, k)) for k in study.kinds]
            lines.append(f"| {name} | {arm.name} | {' | '.join(cells)} |")
    return lines


def learning_table(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Steps to 80 % of right training answers by kind, and the best of the learning rates tried."""
    rates = bool(study.rate_check)
    header = "| arm | " + " | ".join(f"{k}: steps to 80 %" for k in study.kinds)
    lines = [header + (" | best rate (gain, nats) |" if rates else " |")]
    lines.append("|---" * (len(study.kinds) + 1 + rates) + "|")
    for arm in study.arms():
        cells = [
            f"{s:.0f}" if (s := analysis.steps_to(runs, arm, k)) else "never" for k in study.kinds
        ]
        if rates and any(f.arm == arm and f.run.rate != 1 for f in runs):
            best, gain = analysis.best_rate(study, runs, arm, study.first_condition)
            cells.append(f"×{best:g} ({gain:.2f})")
        elif rates:
            cells.append("–")
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    if rates:
        lines += [
            "",
            "Best rate: which factor on both learning rates has the lowest NLL over all questions "
            "at the trained sizes, on the first seed alone, and how much lower it is than at the "
            "study's rates.",
        ]
    return lines
