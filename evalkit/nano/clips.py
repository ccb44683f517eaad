"""Clips of moving shapes: which way, how many, which first, which vanishes; always five options,
one of them right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from evalkit.nano.grounding import COLOURS, SHAPES, Thing, paint
from evalkit.nano.scene import CELL, Question, Scene

FPS = 8.0
DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "it stays still": (0, 0),
}
NUMBERS = ("one", "two", "three", "four", "five")
NAMES = tuple(f"the {c} {s}" for c in COLOURS for s in SHAPES)


def draw(
    difficulty: float,
    rng: np.random.Generator,
    seconds: float | None = None,
    unfolding: bool = False,
) -> Scene:
    """``seconds``: the clip's length, instead of one that goes with the difficulty.

    ``unfolding``: clips whose first frame does not tell the answer. What moves starts in the
    middle, what is counted or comes first is not there yet, and beside the object that disappears
    another one appears. Which way, which first and which vanished then need the order of frames:
    the same frames in another order are another answer.
    """
    known = 1 if difficulty <= 0.05 else 2 if difficulty <= 0.12 else 4
    kind = str(rng.choice(["direction", "count", "order", "vanish"][:known]))
    usual = 2.0 if difficulty <= 0.12 else float(rng.integers(2, 3 + int(6 * min(1.0, difficulty))))
    side = 3 if difficulty <= 0.12 else int(rng.integers(3, 5 + int(4 * difficulty)))
    width = height = side * CELL
    if difficulty > 0.5:
        width = int(rng.integers(side, 2 * side)) * CELL
    makers = {"direction": _direction, "count": _count, "order": _events, "vanish": _events}
    if unfolding:
        usual = max(usual, 3.0)  # an object's second is seen in two frames
        makers = {"direction": _from_middle, "count": _count_up, "order": _turns, "vanish": _change}
    return makers[kind](kind, difficulty, seconds or usual, width, height, rng)


def _things(n: int, width: int, height: int, rng: np.random.Generator) -> list[Thing]:
    """n shapes of different names, in different thirds of the canvas."""
    names = rng.choice(len(NAMES), n, replace=False)
    places = rng.permutation(9)[:n]
    side = int(min(width, height) * 0.26)
    out = []
    for name, place in zip(names, places):
        colour, shape = NAMES[int(name)].split()[1:]
        x = int((place % 3 + 0.5) * width / 3 - side / 2)
        y = int((place // 3 + 0.5) * height / 3 - side / 2)
        out.append(Thing(colour, shape, x, y, side))
    return out


def _render(frames: list[list[Thing]], width: int, height: int) -> np.ndarray:
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for i, things in enumerate(frames):
        image = Image.new("RGB", (width, height), (255, 255, 255))
        pen = ImageDraw.Draw(image)
        for thing in things:
            paint(pen, thing)
        out[i] = np.asarray(image)
    return out


def _scene(
    question: str,
    answer: str,
    kind: str,
    pool: list[str],
    frames: list[list[Thing]],
    width: int,
    height: int,
    difficulty: float,
    rng: np.random.Generator,
) -> Scene:
    wrong = [o for o in dict.fromkeys(pool) if o != answer][:4]
    options = [str(o) for o in rng.permutation([answer, *wrong])]
    asked = Question(question, answer, kind, options=tuple(options))
    return Scene((asked,), difficulty, frames=_render(frames, width, height), fps=FPS)


def _direction(
    kind: str, difficulty: float, seconds: float, width: int, height: int, rng: np.random.Generator
) -> Scene:
    n = int(seconds * FPS)
    name = NAMES[int(rng.integers(len(NAMES)))]
    colour, shape = name.split()[1:]
    answer = str(rng.choice(list(DIRECTIONS)))
    dx, dy = DIRECTIONS[answer]
    side = int(min(width, height) * rng.uniform(0.25, 0.4))
    start = [rng.uniform(0, width - side), rng.uniform(0, height - side)]
    path = rng.uniform(0.6, 0.95)
    span = (width - side, height - side)
    for axis, d in enumerate((dx, dy)):
        if d:
            rest = span[axis] * (1 - path) * rng.uniform(0, 1)
            start[axis] = rest if d > 0 else span[axis] - rest
    frames = _moving(Thing(colour, shape, 0, 0, side), start, (dx * path, dy * path), span, n)
    return _which_way(name, answer, frames, width, height, difficulty, rng)


def _moving(
    thing: Thing,
    start: Sequence[float],
    path: tuple[float, float],
    span: tuple[int, int],
    n: int,
) -> list[list[Thing]]:
    """n frames of a thing that goes the path, in parts of the span, at an even speed."""
    at = [i / (n - 1) for i in range(n)]
    return [
        [
            replace(
                thing,
                x=int(start[0] + path[0] * t * span[0]),
                y=int(start[1] + path[1] * t * span[1]),
            )
        ]
        for t in at
    ]


def _which_way(
    name: str,
    answer: str,
    frames: list[list[Thing]],
    width: int,
    height: int,
    difficulty: float,
    rng: np.random.Generator,
) -> Scene:
    question = f"Which way does {name} move?"
    pool = list(DIRECTIONS)
    return _scene(question, answer, "direction", pool, frames, width, height, difficulty, rng)


def _count(
    kind: str, difficulty: float, seconds: float, width: int, height: int, rng: np.random.Generator
) -> Scene:
    n = int(rng.integers(1, 6))
    things = _things(n, width, height, rng)
    frames = [things] * int(seconds * FPS)
    return _scene(
        "How many objects are there?",
        NUMBERS[n - 1],
        kind,
        list(NUMBERS),
        frames,
        width,
        height,
        difficulty,
        rng,
    )


def _events(
    kind: str, difficulty: float, seconds: float, width: int, height: int, rng: np.random.Generator
) -> Scene:
    """Objects that appear one after another, or of which one vanishes half way; the options name
    all that are in the clip.
    """
    things = _things(2 if difficulty < 0.5 else 3, width, height, rng)
    n = int(seconds * FPS)
    names = [f"the {t.name}" for t in things]
    pool = [*names, *(str(x) for x in rng.permutation(NAMES)[:6])]
    if kind == "order":
        starts = np.linspace(0, n * 0.6, len(things))
        frames = [[t for t, s in zip(things, starts) if i >= s] for i in range(n)]
        return _scene(
            "Which object appears first?",
            names[0],
            kind,
            pool,
            frames,
            width,
            height,
            difficulty,
            rng,
        )
    frames = [things if i < n * 0.5 else things[1:] for i in range(n)]
    return _scene(
        "Which object disappears?", names[0], kind, pool, frames, width, height, difficulty, rng
    )


def _from_middle(
    kind: str, difficulty: float, seconds: float, width: int, height: int, rng: np.random.Generator
) -> Scene:
    """As ``_direction``, from a place in the middle that is the same for all directions."""
    name = NAMES[int(rng.integers(len(NAMES)))]
    colour, shape = name.split()[1:]
    side = int(min(width, height) * rng.uniform(0.2, 0.35))
    span = (width - side, height - side)
    start = [part * rng.uniform(0.42, 0.58) for part in span]
    path = rng.uniform(0.3, 0.42)
    answer = str(rng.choice(list(DIRECTIONS)))
    dx, dy = DIRECTIONS[answer]
    thing = Thing(colour, shape, 0, 0, side)
    frames = _moving(thing, start, (dx * path, dy * path), span, int(seconds * FPS))
    return _which_way(name, answer, frames, width, height, difficulty, rng)


def _count_up(
    kind: str, difficulty: float, seconds: float, width: int, height: int, rng: np.random.Generator
) -> Scene:
    """As ``_count``, with objects that appear one after another, the first not at once."""
    things = _things(int(rng.integers(1, 6)), width, height, rng)
    n = int(seconds * FPS)
    starts = np.linspace(n * 0.1, n * 0.7, len(things))
    frames = [[t for t, s in zip(things, starts) if i >= s] for i in range(n)]
    answer, pool = NUMBERS[len(things) - 1], list(NUMBERS)
    return _scene(
        "How many objects are there?", answer, kind, pool, frames, width, height, difficulty, rng
    )


def _turns(
    kind: str, difficulty: float, seconds: float, width: int, height: int, rng: np.random.Generator
) -> Scene:
    """Objects that are there one at a time, between an empty beginning and an empty end."""
    things = _things(2 if difficulty < 0.5 else 3, width, height, rng)
    n = int(seconds * FPS)
    turn = [(i / n - 0.12) / 0.76 * len(things) for i in range(n)]
    frames = [[t for k, t in enumerate(things) if k <= at < k + 1] for at in turn]
    names = [f"the {t.name}" for t in things]
    pool = [*names, *(str(x) for x in rng.permutation(NAMES)[:6])]
    return _scene(
        "Which object appears first?",
        names[0],
        kind,
        pool,
        frames,
        width,
        height,
        difficulty,
        rng,
    )


def _change(
    kind: str, difficulty: float, seconds: float, width: int, height: int, rng: np.random.Generator
) -> Scene:
    """The first object leaves, the second one comes, the others stay."""
    things = _things(3 if difficulty < 0.5 else 4, width, height, rng)
    n = int(seconds * FPS)
    goes, comes = (n * float(part) for part in rng.uniform(0.35, 0.65, 2))
    gone, new, *rest = things
    frames = [[*rest, *([gone] * (i < goes)), *([new] * (i >= comes))] for i in range(n)]
    names = [f"the {t.name}" for t in things]
    pool = [*names, *(str(x) for x in rng.permutation(NAMES)[:6])]
    return _scene(
        "Which object disappears?", names[0], kind, pool, frames, width, height, difficulty, rng
    )
