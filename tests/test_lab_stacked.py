"""Stacks of lab models: what trains them together trains them as one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from evalkit.cli.main import main
from evalkit.errors import UsageError
from evalkit.lab import schedule, stacked, trainer
from evalkit.lab.batches import Condition
from evalkit.lab.stacked import InStacks
from evalkit.lab.study import SIZE, load_study
from evalkit.lab.trainer import Run
from tests.test_lab import STUDY, run, write_study
from tests.test_lab_finetune import Here

SCHEMES: tuple[dict[str, Any], ...] = (
    {},
    {"position": "rope1d"},
    {"position": "mrope_i", "theta": 10_000.0},
)


def difference(runs: Sequence[Run], conditions: Mapping[str, Condition] | None = None) -> float:
    """The largest difference of a weight between stacks of these runs and the same models trained
    one at a time. Learning curves and measurements must agree.

    Weights are 0.02 to 1 in size. It is largest in the biases of keys, whose gradient is little but
    rounding, which AdamW makes as large as any.
    """
    worst = 0.0
    for group in stacked.stacks(runs):
        job = stacked.order(Here(), [runs[i] for i in group], conditions or {})
        stack, curves = stacked.trained_job(job, "cpu")
        measured = stack.measured()
        for i, r in enumerate(job.runs):
            alone, curve = trainer.trained(r)
            for name, p in alone.named_parameters():
                worst = max(worst, float((p - stack.params[name][i]).detach().abs().max()))
            assert [(p.step, p.nll.keys()) for p in curve] == [
                (p.step, p.nll.keys()) for p in curves[i]
            ]
            for a, b in zip(curve, curves[i]):
                assert list(b.nll.values()) == pytest.approx(list(a.nll.values()), abs=1e-3)
            for name, condition in (conditions or {}).items():
                expected = trainer.measure(alone, name, condition, r)
                assert expected.keys() == measured[i][name].keys()
                for kind, m in expected.items():
                    assert measured[i][name][kind].nll == pytest.approx(m.nll, abs=1e-3)
                    assert measured[i][name][kind].n == m.n
    return worst


def test_a_stack_trains_and_measures_as_one_at_a_time() -> None:
    """Schemes, seeds, jitter, frozen parts and rates share one."""
    frozen = [{"share": 0.5, "language": 0.0}, {"share": 0.5}]
    runs = [
        run(steps=2, rate=0.5),
        run({"position": "rope1d"}, seed=1, steps=2, text_jitter=4),
        run(steps=2, stages=frozen),
    ]
    assert len(stacked.stacks(runs)) == 1
    assert difference(runs, {"moved": Condition(scenes=6, moved=3)}) < 1e-5


def test_a_step_can_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads nothing back, makes no tensor of Python's numbers, and looks nothing up by index,
    whose backward pass sorts: none of this may be in a CUDA graph.
    """
    seen = set()

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.add(func.overloadpacket._qualified_op_name.removeprefix("aten::"))
            return func(*args, **(kwargs or {}))

    def call(self: stacked.Recorded) -> None:
        with Operators():
            self.function()

    monkeypatch.setattr(stacked.Recorded, "__call__", call)
    stacked.trained_job(stacked.order(Here(), [run(steps=1), run(SCHEMES[2], steps=1)], {}), "cpu")
    assert {"bmm", "_softmax", "baddbmm"} <= seen
    refused = "_local_scalar_dense item nonzero lift_fresh index index_put embedding sort unique"
    assert not seen & {*refused.split(), "embedding_dense_backward", "index_put_", "masked_select"}


def test_models_of_another_shape_or_mathematics_get_a_stack_of_their_own() -> None:
    runs = [run(), run(steps=6), run(shows={"frames": "pair"}), run({"cross_modal": "bias:0.7"})]
    assert len(stacked.stacks(runs)) == 4
    many = [run(seed=i) for i in range(stacked.MOST + 1)]
    assert [len(s) for s in stacked.stacks(many)] == [stacked.MOST, 1]
    assert not stacked.stackable(run(shows={"tower": "scene"}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"text_jitter": 8},
        {"stages": [{"share": 1.0, "vision": 0.0}]},
        {"probe": "relations", "start": {"steps": 3, "probe": "where"}},
        {"start": {"steps": 3}},
        {"shows": {"stamps": True}},
        {"shows": {"frames": "pair"}},
        {"probe": "reading", "trained": {"low": [1, 3, 3], "high": [1, 6, 6], "most": 32}},
    ],
)
def test_whatever_is_asked_or_shown_stacks_train_as_one_at_a_time(fields: dict[str, Any]) -> None:
    runs = [run(s, seed=seed, **fields) for seed in (0, 1) for s in SCHEMES]
    assert difference(runs, {"all": Condition(scenes=42)}) < 1e-5


@pytest.mark.slow
def test_a_stack_trains_as_one_at_a_time_for_50_steps() -> None:
    runs = [run(s, seed=seed, model=SIZE, steps=50, batch=8) for s in SCHEMES for seed in (0, 1)]
    assert difference(runs) < 1e-5


def no_device(name: str) -> str:
    raise UsageError(f"device {name!r} is not here")


def test_a_study_in_stacks_gets_its_page_and_is_not_trained_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also runs that no stack takes, as those of a tower that sees the whole scene."""
    monkeypatch.setattr(schedule, "ProcessPoolExecutor", Here)
    third = "    scene: {shows: {tower: scene}}\ngrid:"
    path = write_study(tmp_path, STUDY.replace("grid:", third))
    command = ["study", str(path), "--device", "cpu", "--workers", "1", "--output", str(tmp_path)]
    assert main(command) == 0
    study, trained_on = load_study(path), InStacks("cpu")
    runs = tmp_path / "tiny" / schedule.RUNS
    before = runs.read_bytes()
    assert before.count(b"\n") == len(schedule.results(study, runs.parent, trained_on)) == 6
    assert "written" in capsys.readouterr().out
    monkeypatch.setattr("evalkit.models.device.checked_device", no_device)  # none is needed
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out and runs.read_bytes() == before
    page = (tmp_path / "tiny" / "README.md").read_text(encoding="utf-8")
    assert "CPU" in page and "Incomplete" not in page
