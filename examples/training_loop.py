"""Evaluate a model every few steps while it trains, and read the curve afterwards.

    python examples/training_loop.py

The shipped nano model gets noise on its weights and learns again, from documents that are drawn on
the fly; `evalkit.evaluate` takes it as it is in memory.
"""

from pathlib import Path

import numpy as np
import torch

import evalkit
from evalkit.models.qwen2_vl.checkpoint import load
from evalkit.nano import shipped
from evalkit.nano.batches import collate
from evalkit.nano.families import draw
from evalkit.nano.train import loss_and_accuracy


def main(output: Path = Path("results/training"), steps: int = 4, every: int = 2) -> list[float]:
    """Trains for so many steps; returns the scores at every `every`-th."""
    torch.manual_seed(0)
    model = load(shipped()["nano"]).requires_grad_(True).train()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * weight.std() * torch.randn_like(weight)

    rng = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step in range(steps + 1):
        if step % every == 0:
            evaluation = evalkit.evaluate(
                "docvqa",
                model=model,
                name="relearning",
                step=step,
                limit=6,
                seed=0,
                output=output,
                progress=False,
            )
            print(step, evaluation.scores)
        batch = collate(
            "documents", [draw("documents", 0.3, rng) for _ in range(4)], model.switches
        )
        loss, *_ = loss_and_accuracy(model, batch)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    results = evalkit.load_results(output)
    curve = results[results["metric"] == "anls"].sort_values("step")
    print(curve[["step", "value", "ci_low", "ci_high"]].to_string(index=False))
    return list(curve["value"])


if __name__ == "__main__":
    main()
