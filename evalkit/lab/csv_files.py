"""A study's scores, effects and learning curves as CSV, a row each; ``stored`` reads them."""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.lab.analysis import effect, mean_curve
from evalkit.lab.schedule import FinishedRun
from evalkit.lab.study import Study


def scores_csv(study: Study, runs: Sequence[FinishedRun]) -> str:
    """One row a run, condition and kind."""
    lines = ["schema_version,arm,seed,rate,condition,kind,nll,right,valid,choice,n"]
    for f in runs:
        for condition, kinds in f.result.conditions.items():
            for kind, m in kinds.items():
                lines.append(
                    f'2,"{f.arm.name}",{f.run.seed},{f.run.rate:g},"{condition}",{kind},'
                    f"{m.nll},{m.right},{m.valid},{m.choice},{m.n}"
                )
    return "\n".join([*lines, ""])


def effects_csv(study: Study, runs: Sequence[FinishedRun]) -> str:
    """Every arm against the baseline, every condition and kind, intervals at 95 % each."""
    base = study.arm(study.baseline)
    lines = [
        "schema_version,arm,baseline,condition,kind,difference,ci_low,ci_high,noise,"
        "effect_over_noise,mde,right_points,seeds"
    ]
    for arm in study.arms():
        for condition in study.conditions:
            for kind in study.kinds:
                e = effect(runs, arm, base, condition, kind) if arm != base else None
                if e:
                    values = (e.difference, e.low, e.high, e.noise, e.over_noise, e.mde, e.right)
                    numbers = ",".join(f"{v:.4f}" for v in values)
                    lines.append(
                        f'1,"{arm.name}","{base.name}","{condition}",{kind},{numbers},{e.seeds}'
                    )
    return "\n".join([*lines, ""])


def curves_csv(study: Study, runs: Sequence[FinishedRun]) -> str:
    """The NLL of training answers of every arm and kind, the mean over seeds, a row a point."""
    lines = ["schema_version,arm,kind,step,nll"]
    for arm in study.arms():
        for kind in study.kinds:
            for step, nll in mean_curve(runs, arm, kind):
                lines.append(f'1,"{arm.name}",{kind},{step},{nll:.4f}')
    return "\n".join([*lines, ""])
