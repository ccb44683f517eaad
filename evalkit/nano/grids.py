"""Large sparse pages for twins: coloured shapes, and far away in the same row or column the number that belongs to each.

Nothing is hard to see; what is asked is who stands in line with whom, over 8 to 48 visual tokens. Not a family of the ``mini`` subsets.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .grounding import COLOURS, SHAPES, Thing, paint
from .scene import CELL, Question, Scene
from .words import draw_line


def draw(difficulty: float, rng: np.random.Generator) -> Scene:
    """Two to five pairs; the long side has 8 to 8 + 40 * difficulty cells."""
    n = int(rng.integers(2, 6))
    long = int(rng.integers(8, 9 + round(40 * difficulty)))
    down = rng.random() < 0.5
    names = rng.choice(len(COLOURS) * len(SHAPES), n, replace=False)
    numbers = rng.choice(90, n, replace=False) + 10
    image = Image.new("RGB", (n * 2 * CELL, long * CELL) if down else (long * CELL, n * CELL), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    questions = []
    for i, (name, number) in enumerate(zip(names, numbers)):
        colour, shape = list(COLOURS)[name // len(SHAPES)], SHAPES[name % len(SHAPES)]
        near, far = int(rng.integers(0, 2)), int(rng.integers(long // 2, long - 1))
        x, y = (2 * i, near) if down else (near, i)
        paint(pen, Thing(colour, shape, x * CELL + 3, y * CELL + 3, 22))
        x, y = (2 * i, far) if down else (far, i)
        draw_line(pen, str(number), "num", x * CELL, y * CELL + CELL / 2, 22, 0.0, (0, 0, 0), rng)
        questions.append(Question(f"What is {'below' if down else 'to the right of'} the {colour} {shape}?", str(number), "lookup"))
    return Scene(tuple(questions[i] for i in rng.permutation(n)[:4]), difficulty, image=image)
