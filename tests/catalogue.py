"""Ten rows of each image benchmark in its official columns, drawn here."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from evalkit.tasks.blink import SUBTASKS

from evalkit.sources import Joined
from evalkit.task import load_task
from tests.pictures import png

Columns = dict[str, Any]
N = 10
LETTERS = "ABCDEFGHIJ"


@cache
def picture(i: int) -> Columns:
    """Two rows share a picture."""
    return {"bytes": png(56, 56, 20 * (i // 2)), "path": f"{i}.png"}


def ai2d(i: int) -> Columns:
    options = ["leaf", "stem", "root", f"part {i}"]
    return {
        "question": f"What is {i}?",
        "options": options,
        "answer": str(i % 4),
        "image": picture(i),
    }


def realworldqa(i: int) -> Columns:
    if i % 2:
        return {
            "question": f"How many cars are there? {i}\n"
            "Please answer directly with a single word or number.",
            "answer": str(i),
            "image": picture(i),
        }
    return {
        "question": "Where is the sign?\n\nA. Left\nB. Right\nC. Ahead\n"
        "Please answer directly with only the letter of the correct option and nothing else.",
        "answer": "ABC"[i % 3],
        "image": picture(i),
    }


def mmstar(i: int) -> Columns:
    kinds = ("coarse perception", "math", "logical reasoning")
    return {
        "index": i,
        "question": f"What is shown in {i}?\n"
        "Options: A: a dog, B: a cat, sitting, C: two birds, D: none",
        "answer": LETTERS[i % 4],
        "category": kinds[i % 3],
        "l2_category": ("x", "y")[i < 3],
        "meta_info": {"source": "y"},
        "image": picture(i),
    }


def mmbench(i: int) -> Columns:
    """Five questions with two options, each with its rotation."""
    question, rotation = i // 2, i % 2
    options = [f"one {question}", f"two {question}"]
    return {
        "index": question + 1_000_000 * rotation,
        "question": f"Which is it? {question}",
        "hint": "Look closely." if question % 2 else "nan",
        "A": options[rotation],
        "B": options[1 - rotation],
        "C": None,
        "D": "nan",
        "answer": LETTERS[rotation],
        "category": "counting",
        "source": "z",
        "L2-category": "fine",
        "comment": "",
        "split": "dev",
        "image": picture(i),
    }


def mmbench_hidden(i: int) -> Columns:
    return mmbench(i) | {"answer": None}


def mme(i: int) -> Columns:
    category = ("count", "OCR", "code_reasoning", "position", "text_translation")[i // 2]
    return {
        "question_id": f"{category}/{i // 2:04}.png",
        "question": f"Is this {i}? Please answer yes or no.",
        "answer": "Yes" if i % 2 else "No",
        "category": category,
        "image": picture(i),
    }


def hallusionbench(i: int) -> Columns:
    """Two sets of five rows: figures 1 and 2, questions 0 and 1, and one more figure."""
    figure, question = ((1, 0), (1, 1), (2, 0), (2, 1), (3, 0))[i % 5]
    return {
        "category": "VD",
        "subcategory": "chart",
        "visual_input": "1",
        "set_id": str(i // 5),
        "figure_id": str(figure),
        "sample_note": "n",
        "question_id": str(question),
        "question": "Is the bar longer?",
        "gt_answer_details": "It is.",
        "gt_answer": str(i % 2),
        "filename": "x.png",
        "image": picture(i),
    }


def pope(i: int) -> Columns:
    return {
        "id": str(i),
        "question_id": str(i // 2),
        "question": "Is there a dog in the image?",
        "answer": "yes" if i % 3 else "no",
        "image_source": f"COCO_val2014_{i // 2:012}",
        "image": picture(i),
        "category": ("random", "popular")[i % 2],
    }


def mmt(i: int) -> Columns:
    return {
        "index": i,
        "question": f"Which one? {i}",
        **{c: (f"option {c}" if c in "ABC" else None) for c in "ABCDEFGHI"},
        "answer": LETTERS[i % 3],
        "category": f"subtask {i % 4}",
        "l2-category": "counting",
        "split": "VAL",
        "image": picture(i),
    }


def mmt_several(i: int) -> Columns:
    return mmt(i) | {"image": [picture(i), picture(i + 2)]}


def mmt_hidden(i: int) -> Columns:
    return mmt(i) | {"answer": ""}


def mmmu(i: int) -> Columns:
    kind = "open" if i % 5 == 4 else "multiple-choice"
    pictures = [picture(i), picture(i + 2) if i % 3 == 0 else None, *[None] * 5]
    mark = " and <image 2>" if i % 3 == 0 else ""
    return {
        "id": f"validation_Art_Theory_{i + 1}",
        "question": f"What is in <image 1>{mark}?",
        "options": "[]" if kind == "open" else "['a line', \"a painter's <image 1>\", '3', 'none']",
        "explanation": "",
        **{f"image_{k + 1}": p for k, p in enumerate(pictures)},
        "img_type": "['Paintings']",
        "answer": "['24/7', '3.43']" if i == 4 else "twelve" if kind == "open" else LETTERS[i % 4],
        "topic_difficulty": "Easy",
        "question_type": kind,
        "subfield": "Art Theory",
    }


def mmmu_hidden(i: int) -> Columns:
    return mmmu(i) | {"answer": "?"}


def mmmu_pro(i: int) -> Columns:
    options = [f"choice {k}" for k in range(10)]
    row = mmmu(i) | {"options": str(options), "answer": LETTERS[i], "subject": "Art_Theory"}
    return {k: v for k, v in row.items() if k not in ("question_type", "subfield")}


def mmmu_pro_vision(i: int) -> Columns:
    return {
        "id": f"test_Art_{i}",
        "image": picture(i),
        "options": str([f"choice {k}" for k in range(10)]),
        "answer": LETTERS[i],
        "explanation": "",
        "subject": "Art",
    }


def mathvista(i: int) -> Columns:
    kind = ("text", "integer", "float", "list", "text")[i % 5]
    choice = kind == "text"
    answer = {"text": "blue", "integer": str(i), "float": "1.2", "list": "[1, 2]"}[kind]
    return {
        "pid": str(i + 1),
        "question": f"What is it? {i}",
        "image": f"images/{i}.jpg",
        "decoded_image": picture(i),
        "choices": ["red", "blue", "green"] if choice else None,
        "unit": "cm" if kind == "float" else None,
        "precision": 1.0 if kind == "float" else None,
        "answer": answer,
        "question_type": "multi_choice" if choice else "free_form",
        "answer_type": kind,
        "metadata": {"category": "general-vqa", "task": "geometry", "skills": ["arithmetic"]},
        "query": f"Hint: Please answer.\nQuestion: What is it? {i}",
    }


def mathvista_hidden(i: int) -> Columns:
    return mathvista(i) | {"answer": ""}


def mathvision(i: int) -> Columns:
    options = ["$1$", "$\\frac{1}{2}$", "$3$", "$4$", "$5$"] if i % 2 else []
    return {
        "id": str(i + 1),
        "question": f"How large is the shaded part? {i}\n<image1>",
        "options": options,
        "image": f"images/{i}.jpg",
        "decoded_image": picture(i),
        "answer": LETTERS[i % 5] if options else "\\frac{1}{2}",
        "solution": None,
        "level": i % 5 + 1,
        "subject": "area",
    }


def vcr_en(i: int) -> Columns:
    covered = ["the red house"] if i % 2 else ["on a hill", "built in 1900"]
    return {
        "question_id": i,
        "image": picture(i),
        "stacked_image": picture(i),
        "only_it_image": picture(i),
        "caption": "The red house on a hill was built in 1900.",
        "crossed_text": covered,
    }


def vcr_zh(i: int) -> Columns:
    return vcr_en(i) | {"caption": "山上的红房子", "crossed_text": ["红房子"]}


def blink(i: int, subtasks: Sequence[str] = ("Counting", "Jigsaw", "IQ_Test")) -> Columns:
    """Of ``val`` three subtasks, of one to three pictures."""
    part, several = subtasks[i % len(subtasks)], 1 + i % 3
    choices = ["the second image", "the third image", "0", "2"][: 2 + i % 3]
    listed = "\n".join(f"({LETTERS[k]}) {c}" for k, c in enumerate(choices))
    return {
        "idx": f"val_{part}_{i + 1}",
        "sub_task": part,
        "question": f"Which one is it? {i}",
        "prompt": f"Look. Which one is it? {i}\nSelect from the following choices.\n{listed}\n",
        "choices": choices,
        "answer": f"({LETTERS[i % len(choices)]})",
        **{f"image_{k + 1}": picture(i + 2 * k) if k < several else None for k in range(4)},
        "part": part,
        "part_row": i,
    }


def muirbench(i: int) -> Columns:
    return {
        "idx": i,
        "task": ("Scene Understanding", "Diagram Understanding")[i % 2],
        "image_relation": "Narrative",
        "image_type": "Real photo",
        "question": f"What do <image> and <image> share? {i}",
        "options": ["a road", "<image>" if i % 2 else "a sign", "None of the choices provided"],
        "answer": LETTERS[i % 3],
        "image_list": [picture(i + 2 * k) for k in range(3 if i % 2 else 2)],
    }


def vstar(i: int) -> Columns:
    options = ["rubber", "cotton", "kevlar", "leather"][: 2 if i % 2 else 4]
    listed = "\n".join(f"({LETTERS[k]}) {option}" for k, option in enumerate(options))
    return {
        "question_id": str(i),
        "text": f"What is the material of the glove? {i}\n{listed}\n"
        "Answer with the option's letter from the given choices directly.",
        "label": LETTERS[i % len(options)],
        "category": "relative_position" if i % 2 else "direct_attributes",
        "image": picture(i),
    }


def hrbench(i: int) -> Columns:
    """Five questions in two orders of their options."""
    question, cycle = i // 2, i % 2
    options = [f"{k} {question}" for k in ("red", "blue", "green", "none")]
    return {
        "index": i,
        "question": f"What colour is the sign? {question}",
        **dict(zip("ABCD", options[cycle:] + options[:cycle])),
        "answer": LETTERS[(question - cycle) % 4],
        "category": ("single", "cross")[question % 2],
        "cycle_category": str(cycle),
        "image": base64.b64encode(picture(i)["bytes"]).decode(),
    }


def countbenchqa(i: int) -> Columns:
    return {
        "image": picture(i),
        "text": f"A picture of {i + 2} dogs.",
        "question": "How many dogs are there in the image?",
        "number": i + 2,
    }


def seedbench(i: int) -> Columns:
    return {
        "question_id": str(i),
        "question": f"What is he doing? {i}",
        **{f"choice_{c}": f"{c} {i}" for c in "abcd"},
        "answer": LETTERS[i % 4],
        "data_id": f"{i // 2}",
        "data_type": "image",
        "image": [picture(i)],
    }


def scienceqa(i: int) -> Columns:
    return {
        "image": picture(i),
        "question": f"Which is the main idea? {i}",
        "choices": ["the first", "the second", "neither"][: 2 + i % 2],
        "answer": i % 2,
        "hint": "Two magnets lie side by side." if i % 3 == 0 else "",
        "task": "closed choice",
        "grade": "grade4",
        "subject": ("natural science", "social science")[i % 2],
        "topic": "physics",
        "category": "Magnets",
        "skill": "Compare",
        "lecture": "",
        "solution": "",
    }


def cv_bench(i: int, sources: Sequence[str] = ("ADE20K", "COCO", "COCO")) -> Columns:
    choices = ["0", "1", "2", "3"][: 2 + i % 3]
    listed = "\n".join(f"({LETTERS[k]}) {c}" for k, c in enumerate(choices))
    return {
        "idx": i,
        "type": "2D",
        "task": ("Count", "Relation")[i % 2],
        "image": picture(i),
        "question": f"How many chairs are in the image? {i}",
        "choices": choices,
        "answer": f"({LETTERS[i % len(choices)]})",
        "prompt": f"How many chairs are in the image? {i} Select from the following choices.\n"
        f"{listed}",
        "source": sources[i % len(sources)],
    }


def mmvp(i: int) -> Columns:
    """Five pairs."""
    return {
        "Index": i + 1,
        "Question": f"Is the door open or closed? {i // 2}",
        "Options": "(a) Open (b) Closed",
        "Correct Answer": "(a)" if i % 2 else "(b)",
        "image": picture(i),
    }


def visulogic(i: int) -> Columns:
    """``clip`` is the picture that the archive has under the path."""
    return {
        "image_path": f"images/{i:05}.png",
        "question": "Which one comes next?\n\nA: A  \nB: B  \nC: C  \nD: D\n",
        "label": LETTERS[i % 4],
        "tag": ("Spatial Reasoning", "Other")[i % 2],
        "clip": picture(i),
    }


ROWS: Mapping[str, Callable[[int], Columns]] = {
    "ai2d:test": ai2d,
    "ai2d:test_no_mask": ai2d,
    "realworldqa:test": realworldqa,
    "mmstar:val": mmstar,
    "mmbench:dev_en": mmbench,
    "mmbench:dev_cn": mmbench,
    "mmbench:test_en": mmbench_hidden,
    "mmbench:test_cn": mmbench_hidden,
    "mmbench:test_cc": mmbench,
    "mme:test": mme,
    "hallusionbench:image": hallusionbench,
    "pope:test": pope,
    "pope:random": pope,
    "pope:popular": pope,
    "pope:adversarial": pope,
    "mmt_bench:val": mmt,
    "mmt_bench:test": mmt_hidden,
    "mmt_bench:val_mi": mmt_several,
    "mmmu:val": mmmu,
    "mmmu:test": mmmu_hidden,
    "mmmu:dev": mmmu,
    "mmmu_pro:standard_10": mmmu_pro,
    "mmmu_pro:standard_4": mmmu_pro,
    "mmmu_pro:vision": mmmu_pro_vision,
    "mathvista:testmini": mathvista,
    "mathvista:test": mathvista_hidden,
    "mathvision:test": mathvision,
    "mathvision:testmini": mathvision,
    "blink:val": blink,
    **{
        f"blink:{name.lower().replace('-', '_')}": partial(blink, subtasks=(name,))
        for name in SUBTASKS
    },
    "muirbench:test": muirbench,
    "vstar:test": vstar,
    "hrbench:4k": hrbench,
    "hrbench:8k": hrbench,
    "countbenchqa:test": countbenchqa,
    "seedbench:image": seedbench,
    "scienceqa:test": scienceqa,
    "cv_bench:2d": cv_bench,
    "cv_bench:3d": partial(cv_bench, sources=("Omni3D",)),
    "mmvp:test": mmvp,
    "visulogic:test": visulogic,
    **{
        f"vcr:{language}_{level}{size}": vcr_en if language == "en" else vcr_zh
        for language in ("en", "zh")
        for level in ("easy", "hard")
        for size in ("", "_500")
    },
}
"""A row by its number, for every subset of the image benchmarks whose data are on the hub alone."""


def rows(name: str) -> list[Columns]:
    """The ten rows of a task's subset."""
    return [ROWS[name](i) for i in range(N)]


def write(name: str, folder: Path) -> Path:
    """The ten rows as a parquet file, as one in the folder of each configuration, or as lines of
    JSON beside an archive of their pictures.
    """
    path = folder / name.replace(":", "-")
    source: Any = load_task(name).source
    if getattr(source, "pictures", False):
        path.mkdir()
        with zipfile.ZipFile(path / source.archives[0], "w") as archive:
            for row in rows(name):
                archive.writestr(row[source.clips], row["clip"]["bytes"])
        lines = [json.dumps({k: v for k, v in r.items() if k != "clip"}) for r in rows(name)]
        (path / source.files).write_text("\n".join(lines) + "\n")
        return path
    if not isinstance(source, Joined):
        path.mkdir()
        file = path / (source.files or f"{source.split}-00000-of-00001.parquet")
        pq.write_table(pa.Table.from_pylist(rows(name)), file)
        return path if source.files else file
    for part, table in source.parts.items():
        (path / part).mkdir(parents=True)
        there = [r for r in rows(name) if r["part"] == part]
        columns = pa.Table.from_pylist(there or rows(name)[:1]).slice(0, len(there))
        pq.write_table(columns, path / part / f"{table.split}-00000-of-00001.parquet")
    return path
