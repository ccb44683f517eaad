"""Coloured shapes and expressions that each refer to exactly one of them: by attribute, size,
place, or relation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from evalkit.nano.scene import CELL, Question, Scene
from evalkit.probes.scene import COLOURS

SHAPES = ("circle", "square", "triangle", "star")


@dataclass(frozen=True)
class Thing:
    """An object of a scene: its top left corner and its side, in pixels."""

    colour: str
    shape: str
    x: int
    y: int
    side: int

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.side / 2, self.y + self.side / 2

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


STYLES = ("attribute", "free", "sentence")


def draw(
    difficulty: float, rng: np.random.Generator, style: str | None = None, alike: bool = False
) -> Scene:
    """``style``: "attribute" (no words of place), "free", or "sentence" (relations to another
    object); None draws one.

    ``alike``: the objects share either their shape or their colour, so that the other alone tells
    them apart.
    """
    style = style or str(rng.choice(STYLES))
    width, height = _canvas(difficulty, rng)
    things = _scatter(width, height, difficulty, rng)
    if alike:
        things = _alike(things, rng)
    tint = int(20 * min(1.0, max(0.0, (difficulty - 0.2) * 3)))
    paper = tuple(int(v) for v in 255 - rng.integers(0, tint + 1, 3))
    image = Image.new("RGB", (width, height), paper)
    if difficulty > 0.5:
        _texture(image, rng)
    pen = ImageDraw.Draw(image)
    for thing in things:
        paint(pen, thing)
    questions = []
    for i in rng.permutation(len(things))[:4]:
        expression = refer(things, int(i), style, difficulty, rng)
        if expression:
            t = things[int(i)]
            answer = box_text(t.x, t.y, t.x + t.side, t.y + t.side, width, height)
            questions.append(Question(expression, answer, style, (t.x, t.y, t.side, t.side)))
    if not questions:
        return draw(difficulty, rng, style, alike)
    extra = tuple(_what(t, width, height) for t in things[:2])
    return Scene(tuple(questions), difficulty, image=image, extra=extra)


def _what(t: Thing, width: int, height: int) -> Question:
    """The other way round: what is it that a box holds."""
    box = box_text(t.x, t.y, t.x + t.side, t.y + t.side, width, height)
    return Question(f"What is in <|box_start|>{box}<|box_end|>?", t.name, "extra")


def box_text(x1: float, y1: float, x2: float, y2: float, width: int, height: int) -> str:
    """The released format: corners in thousandths of width and height, below 1000."""
    a, b, c, d = (
        min(999, round(1000 * v / s))
        for v, s in ((x1, width), (y1, height), (x2, width), (y2, height))
    )
    return f"({a},{b}),({c},{d})"


def refer(
    things: list[Thing], i: int, style: str, difficulty: float, rng: np.random.Generator
) -> str | None:
    """An expression that fits the i-th thing alone, or None when none of the style does."""
    me = things[i]
    found: list[str] = []
    others = [t for j, t in enumerate(things) if j != i]
    if all(t.name != me.name for t in others):
        found.append(f"the {me.name}")
        if all(t.colour != me.colour for t in others) and difficulty > 0.1:
            found.append(f"the {me.colour} object")
        if all(t.shape != me.shape for t in others):
            found.append(f"the {me.shape}")
    same = [t for t in others if t.name == me.name]
    if same:
        if all(me.side >= 1.4 * t.side for t in same):
            found.append(f"the large {me.name}")
        if all(1.4 * me.side <= t.side for t in same):
            found.append(f"the small {me.name}")
    if style == "free" and same:
        for word, axis, sign in (
            ("left", 0, -1),
            ("right", 0, 1),
            ("top", 1, -1),
            ("bottom", 1, 1),
        ):
            if all(
                sign * (me.middle[axis] - t.middle[axis]) > 0.6 * max(me.side, t.side) for t in same
            ):
                found.append(f"the {word} {me.name}")
    if style == "sentence":
        found += _relations(me, others)
    return str(rng.choice(found)) if found else None


def _relations(me: Thing, others: list[Thing]) -> list[str]:
    """Sentences that place me beside an object whose name is its own."""
    out = []
    for anchor in others:
        if sum(t.name == anchor.name for t in others) > 1 or anchor.name == me.name:
            continue
        for words, axis, sign in (
            ("to the left of", 0, -1),
            ("to the right of", 0, 1),
            ("above", 1, -1),
            ("below", 1, 1),
        ):
            away = {t: sign * (t.middle[axis] - anchor.middle[axis]) for t in (me, *others)}
            alike = (t for t in others if t.shape == me.shape and t is not anchor)
            if away[me] > 0.5 * max(me.side, anchor.side) and all(away[t] <= 0 for t in alike):
                out.append(f"the {me.shape} that is {words} the {anchor.name}")
    return out


def _canvas(difficulty: float, rng: np.random.Generator) -> tuple[int, int]:
    if difficulty < 0.05:
        return 84, 84
    if difficulty <= 0.3:
        most = 4 + round((difficulty - 0.05) * 16)
        w, h = (int(v) * CELL for v in rng.integers(3, most + 1, 2))
        return w, h
    most = 300 + int(1100 * max(0.0, difficulty - 0.5) / 0.5)
    w, h = (int(v) for v in rng.integers(112, most + 1, 2))
    return (w, h) if max(w, h) < 4 * min(w, h) else (max(w, h) // 2, max(w, h) // 2)


def _scatter(width: int, height: int, difficulty: float, rng: np.random.Generator) -> list[Thing]:
    most = 1 if difficulty < 0.03 else 2 if difficulty <= 0.12 else 4 if difficulty < 0.4 else 8
    wanted = int(rng.integers(1 if difficulty < 0.05 else min(2, most), most + 1))
    short = min(width, height)
    things: list[Thing] = []
    for _ in range(wanted * 20):
        if len(things) == wanted:
            break
        low, high = (0.3, 0.6) if difficulty < 0.2 else (0.12, 0.45)
        side = max(18, int(short * rng.uniform(low, high)))
        x, y = (int(rng.integers(1, max(s - side - 1, 2))) for s in (width, height))
        if any(_touch(x, y, side, t) for t in things):
            continue
        if things and rng.random() < min(0.5, 2 * max(0.0, difficulty - 0.1)):
            twin = things[int(rng.integers(len(things)))]
            colour, shape = twin.colour, twin.shape
        else:
            colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        things.append(Thing(colour, shape, x, y, side))
    return things


def _alike(things: list[Thing], rng: np.random.Generator) -> list[Thing]:
    """The same places with one shape in different colours, or one colour in different shapes (two
    of a kind beyond four objects).
    """
    colours, shapes = rng.permutation(list(COLOURS)), rng.permutation(list(SHAPES))
    by_colour = rng.random() < 0.7
    names = [
        (colours[i], shapes[0]) if by_colour else (colours[0], shapes[i % len(shapes)])
        for i in range(len(things))
    ]
    return [
        replace(t, colour=str(colour), shape=str(shape))
        for t, (colour, shape) in zip(things, names)
    ]


def _touch(x: int, y: int, side: int, other: Thing) -> bool:
    reach = (side + other.side) / 2
    return (
        abs(x + side / 2 - other.middle[0]) < reach and abs(y + side / 2 - other.middle[1]) < reach
    )


def paint(pen: ImageDraw.ImageDraw, t: Thing) -> None:
    """Draws an object so that it fills its box."""
    fill = COLOURS[t.colour]
    x, y, s = t.x, t.y, t.side
    if t.shape == "circle":
        pen.ellipse((x, y, x + s - 1, y + s - 1), fill=fill)
    elif t.shape == "square":
        pen.rectangle((x, y, x + s - 1, y + s - 1), fill=fill)
    elif t.shape == "triangle":
        pen.polygon([(x, y + s - 1), (x + s - 1, y + s - 1), (x + s / 2, y)], fill=fill)
    else:
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2, 0.42, 1.0)
        px, py = np.cos(angles) * radius, np.sin(angles) * radius
        px, py = (px - px.min()) / np.ptp(px), (py - py.min()) / np.ptp(py)
        pen.polygon(
            [(x + float(a) * (s - 1), y + float(b) * (s - 1)) for a, b in zip(px, py)], fill=fill
        )


def _texture(image: Image.Image, rng: np.random.Generator) -> None:
    pen = ImageDraw.Draw(image)
    step = int(rng.integers(12, 60))
    shade = tuple(max(0, int(v) - int(rng.integers(8, 24))) for v in image.getpixel((0, 0)))  # type: ignore[union-attr]
    for at in range(0, image.width + image.height, step):
        pen.line((at, 0, at - image.height, image.height), fill=shade, width=2)
