"""Forms, receipts and tables: pages whose answers are found by key, by row and column, or by adding
up.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from evalkit.nano.fonts import LATIN, font
from evalkit.nano.scene import CELL, Question, Scene
from evalkit.nano.words import DIGITS, UPPER, draw_line

KEYS = (
    "NAME CITY DATE TIME CODE UNIT ROOM SEAT GATE LANE TOTAL PRICE TAX RATE SIZE MASS AGE YEAR "
    "PAGE ITEM TEAM RANK STEP ZONE PORT FLAT ROAD BANK FUND COST LOAN DUTY FINE RENT WAGE DEBT "
    "GOAL LIMIT SPEED LEVEL"
).split()
WORDS = (
    "RED BLUE GREEN NORTH SOUTH EAST WEST OPEN SHUT FULL HALF NEW OLD GOOD FAST SLOW HIGH LOW "
    "IRON WOOD"
).split()
ROWS = "BOLT NUT NAIL SCREW PIPE WIRE LAMP FUSE GEAR BELT".split()
COLUMNS = "PRICE STOCK SOLD SIZE MASS".split()


def value(difficulty: float, rng: np.random.Generator) -> str:
    """A number at first; then codes, words, dates and prices."""
    kind = rng.random()
    if difficulty < 0.15 or kind < 0.4:
        return "".join(rng.choice(list(DIGITS), rng.integers(2, 4 + int(2 * min(difficulty, 1)))))
    if kind < 0.6:
        return "".join(rng.choice(list(UPPER + DIGITS), rng.integers(2, 5)))
    if kind < 0.75 or difficulty < 0.3:
        return str(rng.choice(WORDS))
    if kind < 0.88:
        return f"{rng.integers(1, 29):02d}/{rng.integers(1, 13):02d}/{rng.integers(1990, 2030)}"
    return f"{rng.integers(1, 999)}.{rng.integers(0, 100):02d}"


def draw(difficulty: float, rng: np.random.Generator) -> Scene:
    """A form or receipt; from 0.5 on also tables, and from 0.7 on sums of two entries."""
    if difficulty >= 0.5 and rng.random() < 0.4:
        return _table(difficulty, rng)
    most = 2 if difficulty < 0.05 else 3 if difficulty <= 0.15 else 6 if difficulty < 0.4 else 10
    n = int(rng.integers(2, most + 1))
    keys = [str(k) for k in rng.choice(KEYS, n, replace=False)]
    rows = [(k, value(difficulty, rng)) for k in keys]
    image = _form(rows, difficulty, rng)
    asked = rng.permutation(n)[:4]
    questions = [Question(f"What is the {rows[i][0]}?", rows[i][1], "lookup") for i in asked]
    if difficulty >= 0.7:
        whole = [(k, int(v)) for k, v in rows if v.isdigit()]
        if len(whole) >= 2:
            (a, x), (b, y) = whole[:2]
            questions = [
                Question(f"What is the sum of {a} and {b}?", str(x + y), "arithmetic"),
                *questions[:3],
            ]
    i = int(asked[0])
    lines = Question(f"What is line {i + 1}?", " ".join(rows[i]), "extra")
    return Scene(tuple(questions), difficulty, image=image, extra=(lines,))


def _form(rows: list[tuple[str, str]], difficulty: float, rng: np.random.Generator) -> Image.Image:
    if difficulty >= 0.4:
        return _free_form(rows, rng)
    free = float(np.clip((difficulty - 0.1) / 0.25, 0.0, 1.0))
    size = round(22 + free * rng.integers(-5, 2))
    left = max(len(k) for k, _ in rows) + 1
    columns = left + max(len(v) for _, v in rows) + (int(rng.integers(0, 2)) if free else 0)
    image = Image.new("RGB", (columns * CELL, len(rows) * CELL), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    for i, (key, text) in enumerate(rows):
        middle = i * CELL + CELL / 2 + free * rng.uniform(-2, 2)
        draw_line(pen, key, "en", free * rng.uniform(0, 8), middle, size, free, (0, 0, 0), rng)
        draw_line(
            pen, text, "en", left * CELL * (1 - 0.3 * free), middle, size, free, (0, 0, 0), rng
        )
    return image


def _free_form(rows: list[tuple[str, str]], rng: np.random.Generator) -> Image.Image:
    size = int(rng.integers(14, 30))
    face = font(str(rng.choice(LATIN)), size)
    pitch = int(size * rng.uniform(1.5, 2.4))
    gap = int(rng.integers(12, 160))
    wide = max(face.getlength(k) for k, _ in rows)
    width = int(wide + gap + max(face.getlength(v) for _, v in rows)) + int(rng.integers(16, 120))
    height = pitch * len(rows) + int(rng.integers(10, 120))
    grey = int(rng.integers(225, 256))
    image = Image.new(
        "RGB", (max(84, min(width, 1400)), max(84, min(height, 1400))), (grey, grey, grey)
    )
    pen = ImageDraw.Draw(image)
    left, top = int(rng.integers(6, 14)), int(rng.integers(4, max(height - pitch * len(rows), 5)))
    for i, (key, text) in enumerate(rows):
        y = top + i * pitch + pitch / 2
        pen.text((left, y), key, font=face, fill=(10, 10, 10), anchor="lm")
        pen.text((left + wide + gap, y), text, font=face, fill=(10, 10, 10), anchor="lm")
        if i and rng.random() < 0.3:
            pen.line((left, y - pitch / 2, image.width - 6, y - pitch / 2), fill=(170, 170, 170))
    return image


def _table(difficulty: float, rng: np.random.Generator) -> Scene:
    size = int(rng.integers(14, 26))
    face = font(str(rng.choice(LATIN)), size)
    names = [str(r) for r in rng.choice(ROWS, rng.integers(2, 6), replace=False)]
    heads = [str(c) for c in rng.choice(COLUMNS, rng.integers(2, 4), replace=False)]
    cells = [[str(rng.integers(1, 999)) for _ in heads] for _ in names]
    column = int(face.getlength("STOCK ")) + int(rng.integers(10, 60))
    pitch = int(size * rng.uniform(1.6, 2.3))
    image = Image.new(
        "RGB", (column * (len(heads) + 1) + 12, pitch * (len(names) + 1) + 12), (255, 255, 255)
    )
    pen = ImageDraw.Draw(image)
    for r, line in enumerate([["", *heads], *([n, *c] for n, c in zip(names, cells))]):
        for c, text in enumerate(line):
            pen.text(
                (6 + c * column, 6 + r * pitch + pitch / 2),
                text,
                font=face,
                fill=(0, 0, 0),
                anchor="lm",
            )
        pen.line(
            (4, 6 + (r + 1) * pitch, image.width - 4, 6 + (r + 1) * pitch), fill=(150, 150, 150)
        )
    questions = []
    for _ in range(3):
        r, c = int(rng.integers(len(names))), int(rng.integers(len(heads)))
        question = Question(f"What is the {heads[c]} of {names[r]}?", cells[r][c], "row_column")
        if question not in questions:
            questions.append(question)
    return Scene(tuple(questions), difficulty, image=image)
