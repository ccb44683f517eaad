"""Ten rows of each benchmark of video and screens in its official layout, with media that decode,
and one odd row more.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from evalkit.tasks.mlvu import KINDS
from evalkit.tasks.mvbench import CUT, FOLDERS

from tests.pictures import png
from tests.test_media import levels

SRT = """1
00:00:00,000 --> 00:00:01,000
<font color="white" size=".72c">Hello.</font>

2
00:00:04,000 --> 00:00:05,000
<font color="white" size=".72c">Goodbye.</font>
"""


def parquet(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), file)


def packed(file: Path, names: Sequence[str], data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, data)


def mvbench(root: Path) -> Path:
    """One row a table, and one whose answer is no candidate; frames for episodic_reasoning."""
    clip = levels()
    for i, (table, folder) in enumerate(FOLDERS.items()):
        rows: list[dict[str, Any]] = [
            {
                "video": "show_s01" if table == "episodic_reasoning" else f"{table}.mp4",
                "question": "What happened?",
                "candidates": ["It fell.", "It rose.", "Nothing."],
                "answer": ["It fell.", "It rose.", "Nothing."][i % 3],
            }
        ]
        if table in CUT:
            rows[0] |= {"start": 1.0, "end": 3.5, "accurate_start": 1.2}
        if table == "action_count":
            rows.append(rows[0] | {"answer": "It sank."})
        (root / "json").mkdir(parents=True, exist_ok=True)
        (root / "json" / f"{table}.json").write_text(json.dumps(rows))
        if table == "episodic_reasoning":
            with zipfile.ZipFile(root / "tvqa.zip", "w") as archive:
                for n in range(12):
                    archive.writestr(f"{folder}/show_s01/{n + 1:05}.jpg", png(56, 56, 20 * n))
        else:
            packed(root / "video" / f"{i}.zip", [f"{folder}/{table}.mp4"], clip)
    return root


def egoschema(root: Path) -> Path:
    rows = [
        {
            "question_idx": str(i),
            "question": "What is the overarching theme?",
            "video_idx": f"0-{i}",
            "option": [f"{letter}. C does {letter}." for letter in "ABCDE"],
            "answer": str(i % 5),
        }
        for i in range(11)
    ]
    rows[10]["answer"] = "5"
    parquet(root / "Subset" / "test-00000-of-00001.parquet", rows)
    full = [row | {"answer": None} for row in rows]
    parquet(root / "MC" / "test-00000-of-00001.parquet", full)
    packed(root / "videos_chunked_01.zip", [f"videos/0-{i}.mp4" for i in range(11)], levels())
    return root


def perceptiontest(root: Path) -> Path:
    rows = [
        {
            "video_name": f"video_{i // 2}",
            "question": "Is it stable?",
            "question_id": str(i % 2),
            "options": ["yes", "no", "I don't know"],
            "answer_id": str(i % 3),
            "area": "physics",
            "reasoning": "descriptive",
            "tag": ["stability", "motion"],
        }
        for i in range(11)
    ]
    rows[10]["options"] = ["yes", "no"]
    parquet(root / "mc_question_val" / "validation-00000-of-00001.parquet", rows)
    parquet(root / "mc_question" / "test-00000-of-00001.parquet", rows)
    packed(root / "videos.zip", [f"videos/video_{i}.mp4" for i in range(6)], levels())
    return root


def videomme(root: Path) -> Path:
    """The videos v0 to v3 have subtitles, v4 and v5 have none."""
    rows = [
        {
            "videoID": f"v{i // 2}",
            "question_id": f"{i:03}-1",
            "question": "What is shown?",
            "options": ["A. A cat.", "B. A dog.", "C. A bird.", "D. Nothing."],
            "answer": "ABCD"[i % 4],
            "duration": ("short", "medium", "long")[i % 3],
            "domain": "Knowledge",
            "task_type": "Object Recognition",
        }
        for i in range(11)
    ]
    rows[10]["answer"] = "AB"
    parquet(root / "videomme" / "test-00000-of-00001.parquet", rows)
    packed(root / "videos_chunked_01.zip", [f"data/v{i}.mp4" for i in range(6)], levels())
    packed(root / "subtitle.zip", [f"subtitle/v{i}.srt" for i in range(4)], SRT.encode())
    return root


def inline(i: int, letters: str = "ABCD") -> str:
    """A question that lists its options, as MLVU and LVBench have it."""
    return f"What happens? {i}\n" + "".join(f"({c}) thing {c}{i}\n" for c in letters)


def mlvu(root: Path, kinds: Sequence[str] = KINDS["dev"], letters: str = "ABCD") -> Path:
    """Of the first row some options are empty, as of a few in the release."""
    rows = [
        {
            "video_name": f"{i // 2}.mp4",
            "duration": 480.0,
            "question": inline(i, letters),
            "candidates": [f"thing {c}{i}" for c in letters],
            "answer": letters[i % len(letters)],
            "task_type": kinds[i % len(kinds)],
            "question_id": f"Q{i}",
        }
        for i in range(11)
    ]
    rows[0]["question"] = "What happens?\n(A) it falls\n(B) \n(C) it\nrises\n(D) \n"
    rows[10]["answer"] = "G"
    parquet(root / "mlvu" / "test-00000-of-00001.parquet", rows)
    packed(root / "video_part_1.zip", [f"{i}.mp4" for i in range(3)], levels())
    packed(root / "video_part_2.zip", [f"{i}.mp4" for i in range(3, 6)], levels())
    return root


def mlvu_test(root: Path) -> Path:
    return mlvu(root, KINDS["test"], "ABCDEF")


def tar_parts(root: Path, name: str, members: Mapping[str, bytes], parts: int) -> None:
    """A tar file cut into parts, as LongVideoBench comes in."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, data in members.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    whole = out.getvalue()
    size = len(whole) // parts + 1
    for i in range(parts):
        end = f".part.a{'abc'[i]}" if parts > 1 else ""
        (root / f"{name}.tar{end}").write_bytes(whole[i * size : (i + 1) * size])


TIMED = [
    {"timestamp": [100.0, 101.5], "text": "hello"},
    {"start": "00:01:43.000", "end": "00:01:44.500", "line": "good bye"},
    {"timestamp": [110.0, None], "text": "never"},
]
"""Times of the whole video, of which the clip begins at 100 s."""


def longvideobench(root: Path) -> Path:
    """The first row has two options; of the last the answer is absent."""
    rows = [
        {
            "video_id": f"v{i // 2}",
            "id": f"v{i // 2}_{i % 2}",
            "video_path": f"v{i // 2}.mp4",
            "subtitle_path": f"v{i // 2}_en.json",
            "correct_choice": i % 2,
            "question": f"What is said while it falls? {i}",
            **{f"option{k}": f"thing {k}" if k < 2 or i else "N/A" for k in range(5)},
            "duration": 5.0,
            "duration_group": (15, 60, 600, 3600)[i % 4],
            "question_category": "S2E",
            "topic_category": "NP-News",
            "starting_timestamp_for_subtitles": 100.0,
        }
        for i in range(11)
    ]
    rows[10]["correct_choice"] = 5
    parquet(root / "validation-00000-of-00001.parquet", rows)
    tar_parts(root, "videos", {f"videos/v{i}.mp4": levels() for i in range(6)}, 3)
    timed = json.dumps(TIMED).encode()
    tar_parts(root, "subtitles", {f"subtitles/v{i}_en.json": timed for i in range(6)}, 1)
    return root


def lvbench(root: Path) -> Path:
    rows = [
        {
            "uid": str(i),
            "key": f"k{i // 2}",
            "video_path": f"k{i // 2}.mp4",
            "question": inline(i).rstrip(),
            "answer": "ABCD"[i % 4],
            "question_type": ["reasoning", "event understanding"][: 1 + i % 2],
            "time_reference": "00:01-00:03",
            "type": "cartoon",
        }
        for i in range(11)
    ]
    rows[10]["question"] = "What happens?"
    parquet(root / "data" / "train-00000-of-00001.parquet", rows)
    for part, numbers in enumerate((range(3), range(3, 6)), 1):
        names = [f"k{i}.mp4" for i in numbers]
        packed(root / "video_chunks" / f"videos_chunk_{part:03}.zip", names, levels())
    return root


def tempcompass(root: Path) -> Path:
    """The three configurations; of the last row the answer is none of the lines."""
    aspects = ("action", "direction", "speed", "order", "attribute_change")
    options = ["A. falling", "B. rising", "C. turning"]
    captions = [
        ["Option 1: It falls.", "Option 2: It rises."],
        ["Sentence A: It falls.", "Sentence B: It rises."],
    ]

    def rows(question: Callable[[int], tuple[str, str]]) -> list[dict[str, Any]]:
        return [
            {
                "video_id": str(100 + i // 2),
                "question": question(i)[0],
                "answer": question(i)[1] if i < 10 else "Z. flying",
                "dim": aspects[i % 5],
            }
            for i in range(11)
        ]

    for config, question in {
        "multi-choice": lambda i: ("\n".join(["What is it doing?", *options]), options[i % 3]),
        "yes_no": lambda i: ("Is it falling?", ("yes", "no")[i % 2]),
        "caption_matching": lambda i: (
            "\n".join(["Which fits?", *captions[i // 2 % 2]]),
            captions[i // 2 % 2][i % 2],
        ),
    }.items():
        parquet(root / config / "test-00000-of-00001.parquet", rows(question))
    names = [f"videos/{100 + i}.mp4" for i in range(6)]
    packed(root / "tempcompass_videos.zip", names, levels())
    return root


def charades_sta(root: Path) -> Path:
    """Half-precision times, as the release has them; the last row's are the wrong way round."""
    rows: dict[str, list[Any]] = {
        "video": [f"V{i // 2}.mp4" for i in range(11)],
        "caption": [f"a person opens door {i}." for i in range(11)],
    }
    times = [[1.0 + 0.1 * i, 3.5] for i in range(10)] + [[4.0, 1.5]]
    halves = pa.array([np.array(t, np.float16) for t in times], pa.list_(pa.float16()))
    file = root / "data" / "test-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table({**rows, "timestamp": halves}), file)
    for part, numbers in enumerate((range(3), range(3, 6)), 1):
        names = [f"Charades_v1_480/V{i}.mp4" for i in numbers]
        packed(root / f"Charades_v1_480_part_{part}.zip", names, levels())
    return root


def videommmu(root: Path) -> Path:
    """Lectures 0 to 10 in each track; question 4 of Adaptation is open, the last ones are odd."""
    for config in ("Perception", "Comprehension", "Adaptation"):
        rows: list[dict[str, Any]] = [
            {
                "id": f"validation_Art_Theory_{i}",
                "question": f"What is in <image 1>? {i}",
                "options": [f"{c}. thing {c}" if i == 1 else f"thing {c}" for c in "ABCDEFGHIJ"],
                "answer": "ABCDEFGHIJ"[i % 10] if i % 3 else "A",
                "question_type": "multiple-choice",
                "link_selected": "https://example.org",
            }
            for i in range(11)
        ]
        rows[10]["answer"] = "K"
        if config == "Adaptation":
            rows[4] |= {"options": [], "answer": "24.5", "question_type": "open"}
            rows = [
                row | {"image": {"bytes": png(56, 56, 20 * i), "path": f"{i}.png"}}
                for i, row in enumerate(rows)
            ]
        parquet(root / config / "test-00000-of-00001.parquet", rows)
    ids = [f"validation_Art_Theory_{i}" for i in range(11)]
    packed(root / "Art.zip", [f"Art/{name}.mp4" for name in ids[:6]], levels())
    packed(root / "Science.zip", [f"Science/{name}.mp4" for name in ids[6:]], levels())
    packed(root / "question_only.zip", [f"question_only/{n}_image.mp4" for n in ids], levels())
    return root


def mmvu(root: Path) -> Path:
    """Rows 3 and 7 are open questions, which are not asked."""
    choices = {c: f"reason {c}" for c in "ABCDE"}
    rows = [
        {
            "id": f"val_{i}",
            "video_path": f"videos/{('Art', 'Chemistry')[i % 2]}/{i // 4}.mp4",
            "question_type": "open-ended" if i in (3, 7) else "multiple-choice",
            "question": f"Why? {i}",
            "choices": dict.fromkeys(choices) if i in (3, 7) else choices,
            "answer": "because" if i in (3, 7) else "ABCDE"[i % 5],
        }
        for i in range(13)
    ]
    rows[12]["answer"] = "F"
    parquet(root / "data" / "validation-00000-of-00001.parquet", rows)
    names = [f"videos/{s}/{i}.mp4" for s in ("Art", "Chemistry") for i in range(4)]
    packed(root / "videos.zip", names, levels())
    return root


def screenspot(root: Path) -> Path:
    sources = ("ios", "android", "macos", "windows", "shop")
    rows = [
        {
            "image": {"bytes": png(80, 40, 10 * i), "path": None},
            "bbox": [0.25, 0.5, 0.5, 0.75],
            "instruction": "close this window",
            "data_type": ("text", "icon")[i % 2],
            "data_source": sources[i % 5],
            "file_name": f"screen_{i // 2}.png",
        }
        for i in range(11)
    ]
    rows[10]["bbox"] = [20.0, 20.0, 40.0, 30.0]
    parquet(root / "data" / "test-00000-of-00001.parquet", rows)
    return root


def screenspot_pro(root: Path) -> Path:
    rows = [
        {
            "id": f"inventor_windows_{i}",
            "image": {"bytes": png(160, 80, 10 * (i // 2)), "path": None},
            "bbox": [-1 if i == 9 else 40, 40, 80, 60],
            "img_size": [160, 80],
            "instruction": "mark dimensions",
            "ui_type": ("text", "icon")[i % 2],
            "application": "inventor",
            "platform": "windows",
            "group": ("CAD", "Office")[i % 2],
        }
        for i in range(11)
    ]
    rows[10]["bbox"] = [40, 40, 30, 60]
    parquet(root / "data" / "train-00000-of-00001.parquet", rows)
    return root


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "mvbench:all": mvbench,
    "egoschema:subset": egoschema,
    "perceptiontest:val": perceptiontest,
    "video_qa:videomme": videomme,
    "video_qa:videomme_sub": videomme,
    "mlvu:dev": mlvu,
    "mlvu:test": mlvu_test,
    "longvideobench:val": longvideobench,
    "longvideobench:val_interleaved": longvideobench,
    "lvbench:test": lvbench,
    "tempcompass:multi_choice": tempcompass,
    "tempcompass:yes_no": tempcompass,
    "tempcompass:caption_matching": tempcompass,
    "charades_sta:test": charades_sta,
    "videommmu:perception": videommmu,
    "videommmu:comprehension": videommmu,
    "videommmu:adaptation": videommmu,
    "mmvu:val_mc": mmvu,
    "screenspot:v1": screenspot,
    "screenspot:v2": screenspot,
    "screenspot:pro": screenspot_pro,
}
ROWS = {"mvbench:all": 20}
"""Rows that can be used, where they are not ten."""
ANSWERS = {
    "screenspot:pro": "(250,500),(500,750)",
    "screenspot:v1": "(250,500),(500,750)",
    "screenspot:v2": "(250,500),(500,750)",
    "charades_sta:test": "The event happens in 1.5 - 3.5 seconds.",
    "tempcompass:yes_no": "yes",
    "tempcompass:caption_matching": "Option 1",
}
"""What is right of some rows, where "A" is of none."""
