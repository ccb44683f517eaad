"""A run's ``curve.csv`` as a picture."""

from __future__ import annotations

import io
from pathlib import Path

from evalkit.files import replace
from evalkit.palette import COLOURS

DASHES = {"0.1": "-", "0.25": "--", "0.6": ":"}


def plot(csv: Path, png: Path) -> Path:
    """Losses, difficulty reached and held-out accuracy by step, one colour a family, one dash a
    difficulty. Returns ``png``.
    """
    import matplotlib
    import pandas as pd

    matplotlib.use("Agg")
    from matplotlib import pyplot

    frame = pd.read_csv(csv)
    families = [c.removeprefix("loss_") for c in frame if c.startswith("loss_")]
    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for family, colour in zip(families, COLOURS):
        axes[0].plot(frame.step, frame[f"loss_{family}"], color=colour, label=family)
        axes[1].plot(frame.step, frame[f"gate_{family}"], color=colour, label=family)
        for column in frame:
            name, at, difficulty = column.partition("@")
            if at and name.removesuffix(" tokens") == family:
                axes[2].plot(
                    frame.step,
                    frame[column],
                    DASHES[difficulty],
                    color=colour,
                    label=f"{name} at {difficulty}",
                )
    axes[2].set_ylim(0, 1)
    titles = ("training loss", "difficulty reached", "held-out share right (teacher-forced)")
    for axis, title in zip(axes, titles):
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    axes[2].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    pyplot.close(figure)
    replace(png, picture.getvalue())
    return png
