"""The shipped fonts: which one can draw a text, loaded once per size."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont, features

FOLDER = Path(__file__).parent / "fonts"
SANS, BOLD, SERIF, CJK = "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "wqy-microhei"
DEVANAGARI = "NotoSansDevanagari-Regular"
LATIN = (SANS, BOLD, SERIF)


@lru_cache(maxsize=512)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A shipped font at a pixel size, with complex layout. Raises RuntimeError when Pillow was
    built without it.
    """
    if not features.check("raqm"):
        raise RuntimeError(
            "Pillow finds no raqm: Arabic and Devanagari can't be shaped; install a Pillow wheel "
            "from PyPI, and the system's libfribidi0"
        )
    return ImageFont.truetype(
        str(FOLDER / f"{name}.ttf"), size, layout_engine=ImageFont.Layout.RAQM
    )


def subset_fonts(source: Path) -> None:
    """Makes the shipped files from Debian's fonts-dejavu-core, fonts-wqy-microhei and
    fonts-noto-core, unpacked under ``source`` (needs fonttools): ``python -m evalkit.nano.fonts
    FOLDER``.
    """
    from fontTools import subset
    from fontTools.ttLib import TTFont

    from evalkit.nano.wordlists import WORDS

    latin = [
        *range(0x20, 0x7F),
        *range(0xA0, 0x180),
        0x1A0,
        0x1A1,
        0x1AF,
        0x1B0,
        *range(0x1EA0, 0x1EFA),
        0x20AC,
    ]
    other = [*range(0x400, 0x460), *range(0x384, 0x3CF)]
    letters = sorted({ord(c) for lang in ("zh", "ja", "ko") for w in WORDS[lang] for c in w})
    parts = {
        "DejaVuSans.ttf": [*latin, *other, *range(0x600, 0x660)],
        "DejaVuSans-Bold.ttf": latin,
        "DejaVuSerif.ttf": [*latin, *other],
        "wqy-microhei.ttc": [*letters, *range(0x30, 0x3A)],
        "NotoSansDevanagari-Regular.ttf": {ord(c) for word in WORDS["hi"] for c in word},
    }
    for file, codes in parts.items():
        face = TTFont(next(source.rglob(file)), fontNumber=0)
        options = subset.Options(layout_features=["*"], hinting=False)
        worker = subset.Subsetter(options)
        worker.populate(unicodes=codes)
        worker.subset(face)
        face.save(FOLDER / f"{Path(file).stem}.ttf")


if __name__ == "__main__":
    import sys

    subset_fonts(Path(sys.argv[1]))
