"""Large sparse pages for twins: one or two coloured shapes, to be found over 6 to 46 visual tokens
a side.

Nothing is hard to see; what is asked is where it stands. Not a family of the ``mini`` subsets.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from evalkit.nano.grounding import SHAPES, Thing, box_text, paint
from evalkit.nano.scene import CELL, Question, Scene
from evalkit.probes.scene import COLOURS


def draw(difficulty: float, rng: np.random.Generator) -> Scene:
    """The long side has 6 to 6 + 40 * difficulty cells, the short one 2 to 5."""
    long, short = (
        int(rng.integers(6, 7 + round(40 * difficulty))) * CELL,
        int(rng.integers(2, 6)) * CELL,
    )
    width, height = (short, long) if rng.random() < 0.5 else (long, short)
    names = rng.choice(len(COLOURS) * len(SHAPES), int(rng.integers(1, 3)), replace=False)
    image = Image.new("RGB", (width, height), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    questions = []
    for i, name in enumerate(names):
        side = int(rng.integers(24, CELL * 2 - 6))
        # each in its own half of the long side, so that they never touch
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        if len(names) == 2:
            x, y = (i * width // 2 + x // 2, y) if width > height else (x, i * height // 2 + y // 2)
            x, y = min(x, width - side), min(y, height - side)
            if i == 0:
                x, y = (
                    (min(x, width // 2 - side), y)
                    if width > height
                    else (x, min(y, height // 2 - side))
                )
        thing = Thing(list(COLOURS)[name // len(SHAPES)], SHAPES[name % len(SHAPES)], x, y, side)
        paint(pen, thing)
        box = box_text(x, y, x + side, y + side, width, height)
        questions.append(Question(f"the {thing.name}", box, "attribute", (x, y, side, side)))
    return Scene(tuple(questions), difficulty, image=image)
