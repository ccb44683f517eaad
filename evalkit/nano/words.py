"""Lines of text in many scripts, each in one line of its language's alphabet.

At low difficulty every character sits in the middle of its own visual token; up to .3 the grid
loosens into ordinary spacing; beyond, words of a language are set freely in several fonts, sizes
and colours.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from evalkit.nano.fonts import CJK, DEVANAGARI, LATIN, SANS, SERIF, font
from evalkit.nano.scene import CELL, Question, Scene
from evalkit.nano.wordlists import WORDS

DIGITS = "0123456789"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ALPHABETS = {
    "num": DIGITS,
    "en": UPPER + UPPER.lower(),
    **{lang: "".join(sorted(set("".join(WORDS[lang])))) for lang in ("ru", "el", "zh", "ja", "ko")},
}
LOOKALIKES = frozenset("авеорсухіАВЕКМНОРСТУХ" + "οόνυύικίΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")
"""Cyrillic and Greek letters that look like Latin ones: no line consists of them alone."""
SHAPED = ("ar", "hi")
"""Scripts whose letters join or change places: always drawn as whole words."""
LANGUAGES = ("num", *WORDS)


def fonts_for(lang: str) -> tuple[str, ...]:
    """The fonts that have the letters of a language."""
    if lang in ("zh", "ja", "ko"):
        return (CJK,)
    if lang == "ar":
        return (SANS,)
    if lang == "hi":
        return (DEVANAGARI,)
    return (SANS, SERIF) if lang in ("ru", "el") else LATIN


def language(difficulty: float, rng: np.random.Generator) -> str:
    if difficulty < 0.05:
        return "num"
    if difficulty <= 0.12:
        return str(rng.choice(["num", "en"]))
    if difficulty < 0.22:
        return str(rng.choice(["num", "en", "ru", "el"]))
    return str(
        rng.choice(["num", "en", "en", "de", "fr", "vi", "ru", "el", "ar", "zh", "ja", "ko"])
    )


def text(lang: str, difficulty: float, rng: np.random.Generator) -> str:
    """What is written in an image: digits (``num``), drawn letters where that is easy, or a word of
    the language.
    """
    if lang == "num":
        return "".join(rng.choice(list(DIGITS), rng.integers(2, 4 + int(3 * min(difficulty, 0.5)))))
    if (
        lang in SHAPED
        or lang not in ALPHABETS
        or difficulty >= 0.3
        or (difficulty >= 0.2 and rng.random() < 0.5)
    ):
        return str(rng.choice(WORDS[lang]))
    alphabet = UPPER if lang == "en" and difficulty <= 0.12 else ALPHABETS[lang]
    while True:
        drawn = "".join(rng.choice(list(alphabet), rng.integers(2, 6)))
        if not all(c in LOOKALIKES for c in drawn):
            return drawn


def draw(difficulty: float, rng: np.random.Generator, evenly: bool = False) -> Scene:
    """One to five lines in one language; a question asks for one of them.

    ``evenly``: each language is as likely as the others (among the easiest scenes, digits and
    English), and Hindi is one of them, which training never shows.
    """
    most = 1 if difficulty < 0.06 else 2 if difficulty <= 0.15 else 5
    n = int(rng.integers(1, most + 1))
    lang = str(rng.choice(LANGUAGES)) if evenly and difficulty > 0.2 else language(difficulty, rng)
    lines = [text(lang, difficulty, rng) for _ in range(n)]
    image = page([(line, lang) for line in lines], difficulty, rng)
    if n == 1:
        questions = [Question("What is the text?", lines[0], lang)]
    else:
        questions = [Question(f"What is line {i + 1}?", line, lang) for i, line in enumerate(lines)]
        rng.shuffle(questions)
    return Scene(tuple(questions[:4]), difficulty, image=image)


def page(lines: list[tuple[str, str]], difficulty: float, rng: np.random.Generator) -> Image.Image:
    """The lines (text, language) one below the other."""
    free = np.clip((difficulty - 0.1) / 0.25, 0.0, 1.0)
    if difficulty >= 0.4:
        return _free_page(lines, rng)
    size = round(22 + free * rng.integers(-4, 3))
    ink, paper = _colours(rng, free)
    widths = [_width(line, lang, size, free) for line, lang in lines]
    columns = int(np.ceil(max(widths) / CELL)) + int(rng.integers(0, 2))
    rows = len(lines) + (int(rng.integers(0, 2)) if free else 0)
    image = Image.new("RGB", (max(2, columns) * CELL, max(2, rows) * CELL), paper)
    pen = ImageDraw.Draw(image)
    for i, (line, lang) in enumerate(lines):
        slack = image.width - widths[i]
        x = (
            free * rng.uniform(0, max(slack, 0))
            if free
            else CELL * int(rng.integers(0, slack // CELL + 1))
        )
        draw_line(
            pen,
            line,
            lang,
            x,
            i * CELL + CELL / 2 + free * rng.uniform(-2, 2),
            size,
            free,
            ink,
            rng,
        )
    return image


def draw_line(
    pen: ImageDraw.ImageDraw,
    line: str,
    lang: str,
    x: float,
    middle: float,
    size: int,
    free: float,
    ink: tuple[int, int, int],
    rng: np.random.Generator,
) -> None:
    """Draws a line from x, its middle at a height; ``free`` goes from one cell a character (0) to
    the font's own spacing (1).
    """
    names = fonts_for(lang)
    face = font(names[int(rng.integers(len(names)))] if free > 0.3 else names[0], size)
    if lang in SHAPED:
        pen.text((x, middle), line, font=face, fill=ink, anchor="lm")
        return
    for c in line:
        natural = face.getlength(c)
        pitch = (1 - free) * CELL + free * (natural + 1)
        pen.text((x + pitch / 2, middle), c, font=face, fill=ink, anchor="mm")
        x += pitch


def _width(line: str, lang: str, size: int, free: float) -> int:
    longest = max(font(n, size).getlength(line) for n in fonts_for(lang)) + 2 + len(line)
    return int(
        np.ceil(longest if lang in SHAPED else (1 - free) * CELL * len(line) + free * longest)
    )


def _colours(
    rng: np.random.Generator, free: float
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    dark = tuple(int(v) for v in rng.integers(0, 1 + int(100 * free), 3))
    light = tuple(int(v) for v in 255 - rng.integers(0, 1 + int(60 * free), 3))
    return (light, dark) if free and rng.random() < 0.25 * free else (dark, light)  # type: ignore[return-value]


def _free_page(lines: list[tuple[str, str]], rng: np.random.Generator) -> Image.Image:
    size = int(rng.integers(18, 48))
    ink, paper = _colours(rng, 1.0)
    faces = [font(str(rng.choice(fonts_for(lang))), size) for _, lang in lines]
    width = max(int(f.getlength(t)) for f, (t, _) in zip(faces, lines)) + int(rng.integers(16, 160))
    pitch = int(size * rng.uniform(1.4, 2.2))
    height = pitch * len(lines) + int(rng.integers(8, 90))
    image = Image.new("RGB", (max(84, min(width, 1400)), max(84, height)), paper)
    pen = ImageDraw.Draw(image)
    top = int(rng.integers(0, max(image.height - pitch * len(lines), 1)))
    for i, (face, (line, _)) in enumerate(zip(faces, lines)):
        x = rng.uniform(4, max(image.width - face.getlength(line) - 4, 5))
        pen.text((x, top + i * pitch + pitch / 2), line, font=face, fill=ink, anchor="lm")
    return image
