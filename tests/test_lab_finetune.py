"""Studies that start from a released checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evalkit.cli import main
from evalkit.errors import UsageError
from evalkit.lab import finetune, schedule
from evalkit.lab.batches import Condition
from evalkit.lab.finetune import Checkpoint
from evalkit.lab.schedule import FinishedRun
from evalkit.lab.trainer import Run
from evalkit.nano.recipe import ModelSize
from evalkit.nano.train import export, fresh
from evalkit.probes import PROBES
from evalkit.probes.scene import Range

SMALL = ModelSize(
    vision_depth=1, vision_width=32, vision_heads=1, depth=1, width=64, heads=1, intermediate=32
)
GRIDS = Range(low=(2, 2, 2), high=(3, 2, 2), most=12)


def run(**fields: object) -> Run:
    given = {"seed": 0, "model": SMALL, "steps": 2, "batch": 2, "trained": GRIDS}
    return Run.model_validate(given | fields)


@pytest.fixture(scope="module")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with drawn weights, in the released format."""
    torch.manual_seed(3)
    return export(fresh(run().recipe), tmp_path_factory.mktemp("start") / "model")


def test_arms_adapt_a_checkpoint_whose_tower_stays(
    random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    measured = finetune._measured

    def watched(model, *rest):  # type: ignore[no-untyped-def]
        seen.update({k: v.clone() for k, v in model.state_dict().items()})
        return measured(model, *rest)

    monkeypatch.setattr(finetune, "_measured", watched)
    monkeypatch.setattr(finetune, "RATE", 1e-3)
    start = Checkpoint(random_checkpoint)
    result = start.train(run(switches={"position": "rope1d"}), {"t": Condition(scenes=2)})
    assert set(result.conditions["t"]) == {"when", "row", "column", "colour"}
    before = finetune.load(random_checkpoint, "float32", "cpu").state_dict()
    moved = {k for k, v in seen.items() if not torch.equal(v, before[k])}
    assert not any(k.startswith(("visual.blocks", "visual.patch_embed")) for k in moved)
    assert any(k.startswith("visual.merger") for k in moved)
    assert any(k.startswith("model.layers") for k in moved)
    again = start.train(run(switches={"position": "rope1d"}), {"t": Condition(scenes=2)})
    assert again.conditions == result.conditions and again.curve == result.curve


@pytest.mark.parametrize("probe", ["aspect", "needle", "fading"])
def test_pages_needles_and_words_are_read_too(random_checkpoint: Path, probe: str) -> None:
    grids = Range(low=(1, 2, 4), high=(1, 2, 4), most=8) if probe == "aspect" else GRIDS
    more = {"apart": 1} if probe == "needle" else {"filler": 3}
    conditions = {
        "moved": Condition(scenes=1, moved=2, **more),  # type: ignore[arg-type]
        "far, clamped": Condition(scenes=1, text="clamped", view="shuffled"),
    }
    result = Checkpoint(random_checkpoint).train(run(probe=probe, trained=grids), conditions)
    assert result.conditions.keys() == conditions.keys()
    for kinds in result.conditions.values():
        assert set(kinds) <= set(PROBES[probe].kinds)
        assert sum(m.n for m in kinds.values()) > 0


def test_clamped_text_is_no_further_than_in_training(random_checkpoint: Path) -> None:
    """A cell is 2 x 2 tokens and a second a step: two or three seconds, four rows."""
    from evalkit.models.qwen2_vl.chat import Chat
    from evalkit.models.qwen2_vl.config import Qwen2VLConfig
    from evalkit.models.qwen2_vl.processing import Processor

    config = Qwen2VLConfig.load(random_checkpoint)
    reader = finetune.Reader(run().asks(), Chat(random_checkpoint, config), Processor())
    assert finetune._reach(run(), reader, config.trained) == 4


def test_a_checkpoint_has_runs_of_its_own_and_takes_switches_alone(random_checkpoint: Path) -> None:
    start, conditions = Checkpoint(random_checkpoint), {"t": Condition()}
    assert start.key(run(), conditions) != run().key(conditions)
    start.check([run(switches={"position": "none"})])
    for odd in ({"text_jitter": 4}, {"shows": {"stamps": True}}, {"start": {"steps": 1}}):
        (name,) = odd
        with pytest.raises(UsageError, match=f"differ in switches alone.*{name}"):
            start.check([run(**odd)])
    larger = SMALL.model_copy(update={"depth": 2})
    with pytest.raises(UsageError, match="differ in switches alone.*model"):
        start.check([run(), run(model=larger)])


def test_a_family_that_no_study_starts_from_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}', encoding="utf-8")
    with pytest.raises(UsageError, match="a checkpoint of qwen3_vl; studies start from"):
        Checkpoint(tmp_path).check([run()])


STUDY = """
name: tiny
question: Does it matter?
seeds: 2
steps: 1
batch: 1
trained: {low: [2, 2, 2], high: [2, 2, 2], most: 8}
factors: {scheme: {contiguous: {}, 1D: {switches: {position: rope1d}}}}
grid: [scheme]
conditions: {trained sizes: {scenes: 1}}
"""


class Here:
    """A pool whose one worker is the caller."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def submit(self, call, *args):  # type: ignore[no-untyped-def]
        from concurrent.futures import Future

        future: Future[FinishedRun] = Future()
        future.set_result(call(*args))
        return future

    def shutdown(self, **_: object) -> None: ...

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.slow
def test_evalkit_study_starts_from_a_checkpoint(
    random_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(schedule, "ProcessPoolExecutor", Here)
    study = tmp_path / "tiny.yaml"
    study.write_text(STUDY)
    command = ["study", str(study), "--output", str(tmp_path / "out"), "--start"]
    assert main([*command, str(random_checkpoint)]) == 0
    page = (tmp_path / "out" / "tiny-from-model" / "README.md").read_text()
    assert "its vision tower frozen" in page and "How far positions turn" not in page
    assert main([*command, str(random_checkpoint)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["study", str(study), "--device", "tpu"]) == 2
