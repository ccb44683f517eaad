"""Clips of moving shapes: which way, how many, which first, which vanishes; always five options,
one of them right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from evalkit.nano.grounding import SHAPES, Thing, paint
from evalkit.nano.scene import CELL, Question, Scene
from evalkit.probes.scene import COLOURS

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


@dataclass(frozen=True)
class Clip:
    """What a kind of clip is drawn with: its number of frames, its size in pixels, and random
    numbers.
    """

    difficulty: float
    n: int
    width: int
    height: int
    rng: np.random.Generator

    def side(self, least: float, most: float) -> int:
        """Of an object, drawn in parts of the shorter side."""
        return int(min(self.width, self.height) * self.rng.uniform(least, most))

    def things(self, n: int) -> list[Thing]:
        """n shapes of different names, in different thirds of the canvas."""
        names = self.rng.choice(len(NAMES), n, replace=False)
        places = self.rng.permutation(9)[:n]
        side = int(min(self.width, self.height) * 0.26)
        out = []
        for name, place in zip(names, places):
            colour, shape = NAMES[int(name)].split()[1:]
            x = int((place % 3 + 0.5) * self.width / 3 - side / 2)
            y = int((place // 3 + 0.5) * self.height / 3 - side / 2)
            out.append(Thing(colour, shape, x, y, side))
        return out

    def appearing(self, things: list[Thing], first: float, last: float) -> list[list[Thing]]:
        """Frames in which the things come one after another, between two parts of the clip."""
        starts = np.linspace(self.n * first, self.n * last, len(things))
        return [[t for t, s in zip(things, starts) if i >= s] for i in range(self.n)]

    def which(self, does: str, kind: str, things: list[Thing], frames: list[list[Thing]]) -> Scene:
        """A question for the first of the things; the options name all that are in the clip."""
        names = [f"the {t.name}" for t in things]
        pool = [*names, *(str(x) for x in self.rng.permutation(NAMES)[:6])]
        return self.scene(f"Which object {does}?", names[0], kind, pool, frames)

    def how_many(self, things: list[Thing], frames: list[list[Thing]]) -> Scene:
        answer = NUMBERS[len(things) - 1]
        return self.scene("How many objects are there?", answer, "count", list(NUMBERS), frames)

    def which_way(
        self, name: str, side: int, start: Sequence[float], path: float, answer: str
    ) -> Scene:
        """One thing that goes a path, in parts of the room that it has, at an even speed."""
        colour, shape = name.split()[1:]
        room = self.width - side, self.height - side
        steps = [d * path for d in DIRECTIONS[answer]]
        frames = []
        for i in range(self.n):
            t = i / (self.n - 1)
            x, y = (int(a + step * t * r) for a, step, r in zip(start, steps, room))
            frames.append([Thing(colour, shape, x, y, side)])
        pool = list(DIRECTIONS)
        return self.scene(f"Which way does {name} move?", answer, "direction", pool, frames)

    def scene(
        self, question: str, answer: str, kind: str, pool: list[str], frames: list[list[Thing]]
    ) -> Scene:
        wrong = [o for o in dict.fromkeys(pool) if o != answer][:4]
        options = [str(o) for o in self.rng.permutation([answer, *wrong])]
        asked = Question(question, answer, kind, options=tuple(options))
        return Scene((asked,), self.difficulty, frames=self._rendered(frames), fps=FPS)

    def _rendered(self, frames: list[list[Thing]]) -> np.ndarray:
        out = np.empty((len(frames), self.height, self.width, 3), np.uint8)
        for i, things in enumerate(frames):
            image = Image.new("RGB", (self.width, self.height), (255, 255, 255))
            pen = ImageDraw.Draw(image)
            for thing in things:
                paint(pen, thing)
            out[i] = np.asarray(image)
        return out


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
    makers = {"direction": _direction, "count": _count, "order": _order, "vanish": _vanish}
    if unfolding:
        usual = max(usual, 3.0)  # an object's second is seen in two frames
        makers = {"direction": _from_middle, "count": _count_up, "order": _turns, "vanish": _change}
    return makers[kind](Clip(difficulty, int((seconds or usual) * FPS), width, height, rng))


def _name(rng: np.random.Generator) -> str:
    return NAMES[int(rng.integers(len(NAMES)))]


def _direction(clip: Clip) -> Scene:
    rng = clip.rng
    name = _name(rng)
    answer = str(rng.choice(list(DIRECTIONS)))
    side = clip.side(0.25, 0.4)
    room = clip.width - side, clip.height - side
    start = [rng.uniform(0, r) for r in room]
    path = rng.uniform(0.6, 0.95)
    for axis, d in enumerate(DIRECTIONS[answer]):
        if d:
            rest = room[axis] * (1 - path) * rng.uniform(0, 1)
            start[axis] = rest if d > 0 else room[axis] - rest
    return clip.which_way(name, side, start, path, answer)


def _count(clip: Clip) -> Scene:
    things = clip.things(int(clip.rng.integers(1, 6)))
    return clip.how_many(things, [things] * clip.n)


def _order(clip: Clip) -> Scene:
    """Objects that appear one after another."""
    things = clip.things(2 if clip.difficulty < 0.5 else 3)
    return clip.which("appears first", "order", things, clip.appearing(things, 0, 0.6))


def _vanish(clip: Clip) -> Scene:
    """Objects of which one vanishes half way."""
    things = clip.things(2 if clip.difficulty < 0.5 else 3)
    frames = [things if i < clip.n * 0.5 else things[1:] for i in range(clip.n)]
    return clip.which("disappears", "vanish", things, frames)


def _from_middle(clip: Clip) -> Scene:
    """As ``_direction``, from a place in the middle that is the same for all directions."""
    rng = clip.rng
    name = _name(rng)
    side = clip.side(0.2, 0.35)
    start = [part * rng.uniform(0.42, 0.58) for part in (clip.width - side, clip.height - side)]
    path = rng.uniform(0.3, 0.42)
    return clip.which_way(name, side, start, path, str(rng.choice(list(DIRECTIONS))))


def _count_up(clip: Clip) -> Scene:
    """As ``_count``, with objects that appear one after another, the first not at once."""
    things = clip.things(int(clip.rng.integers(1, 6)))
    return clip.how_many(things, clip.appearing(things, 0.1, 0.7))


def _turns(clip: Clip) -> Scene:
    """Objects that are there one at a time, between an empty beginning and an empty end."""
    things = clip.things(2 if clip.difficulty < 0.5 else 3)
    turn = [(i / clip.n - 0.12) / 0.76 * len(things) for i in range(clip.n)]
    frames = [[t for k, t in enumerate(things) if k <= at < k + 1] for at in turn]
    return clip.which("appears first", "order", things, frames)


def _change(clip: Clip) -> Scene:
    """The first object leaves, the second one comes, the others stay."""
    things = clip.things(3 if clip.difficulty < 0.5 else 4)
    goes, comes = (clip.n * float(part) for part in clip.rng.uniform(0.35, 0.65, 2))
    gone, new, *rest = things
    frames = [[*rest, *([gone] * (i < goes)), *([new] * (i >= comes))] for i in range(clip.n)]
    return clip.which("disappears", "vanish", things, frames)
