"""The command line as users meet it: exit codes, messages, habits from other tools, speed of the
light verbs.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from evalkit.cli import main
from evalkit.store import cells
from tests.tiny import write_tiny

PLUGINS = Path(__file__).parent / "plugins"
SUMS, ADDER = str(PLUGINS / "sums.py"), str(PLUGINS / "adder.py")
RUN_SUMS = ("run", "--tasks", SUMS, "--adapter", ADDER)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Evalkit = Callable[..., Done]


@pytest.fixture
def evalkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Evalkit:
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> Done:
        capsys.readouterr()
        try:
            code = main(args)
        except SystemExit as e:
            code = int(e.code or 0)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def process(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    code = [sys.executable, "-m", "evalkit", *args]
    return subprocess.run(
        code, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


def test_exit_code_0_when_all_is_scored_and_a_repeat_reuses(
    evalkit: Evalkit, tmp_path: Path
) -> None:
    first = evalkit(*RUN_SUMS)
    assert first.code == 0, first.err
    assert "sums:all" in first.out and "77.5" in first.out and "[" in first.out
    assert (tmp_path / "results" / "leaderboard.md").is_file()
    again = evalkit(*RUN_SUMS)
    assert again.code == 0
    assert "reused, nothing to do" in again.out


def test_exit_code_1_when_a_sample_failed_and_the_reason_is_shown(
    evalkit: Evalkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_TEST_BROKEN", "1")
    failed = evalkit(*RUN_SUMS)
    assert failed.code == 1
    assert "row 13: IndexError" in failed.err
    assert f"evalkit run --tasks {SUMS}" in failed.err
    assert evalkit(*RUN_SUMS, "--fail-on-error", "10%").code == 0


def test_exit_code_1_when_the_adapter_breaks(evalkit: Evalkit) -> None:
    broken = evalkit(*RUN_SUMS, "--model-args", "crash_at=9")
    assert broken.code == 1
    assert "out of memory" in broken.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "--tasks", "docvq"), "did you mean docvqa?"),
        (("run", "DocVQA"), "did you mean docvqa?"),
        (("run", "--tasks", "docvqa:val2"), "has no subset 'val2'"),
        (("run",), "no task is named: evalkit run docvqa, say"),
        (("-v", "run", "docvqa"), "options stand behind the verb: evalkit VERB -v"),
        (("--tasks", "docvqa", "run"), "options stand behind the verb: evalkit VERB --tasks"),
        (("run", "--tasks", "./pictures"), "./pictures: no such file or folder, and no task"),
        (("run", "--tasks", str(Path(__file__).parent / "data")), "no pictures or clips"),
        (("run", "--tasks", "docvqa", "--model", "nanno"), "those that ship inside: nano, twin"),
        (("run", "--tasks", "docvqa", "--modle", "x"), "did you mean --model?"),
        (("run", "--tasks", "docvqa", "--limit", "x"), "expected N, A-B"),
        (("run", "--tasks", "docvqa", "--limit", "inf"), "expected N, A-B"),
        (("run", "--tasks", "docvqa", "--limit", "2", "--seed", "-1"), "seed=-1: expected"),
        (("run", "--tasks", ":all"), "unknown task ''"),
        (("run", "--tasks", "docvqa", "--output", ""), "an empty path"),
        (("report", "--save", "."), ".: a folder; name a file"),
        (("view", ".", "--port", "99999"), "expected a port, 0 to 65535"),
        (("serve", "--port", "-1"), "expected a port, 0 to 65535"),
        (("run", "--tasks", "docvqa", "--adapter", "nope"), "unknown adapter 'nope'"),
        (("run", "--tasks", "docvqa", "--switch", "position=3d"), "expected one of mrope"),
        (("run", "--tasks", "docvqa", "--switch", "position"), "expected name=value"),
        (("run", "docvqa", "--switch", "theta=9,vision_gate=0"), "--switch theta=9 --switch vis"),
        (("run", "--tasks", "docvqa", "--data", "docvqa=x"), "expected TASK:SUBSET=PATH"),
        (("run", "--tasks", "./none.py"), "no such file"),
        (("run", "--tasks", "docvqa", "--model", "./nothere"), "nothere"),
        (("run", "--tasks", "docvqa", "--model", "nano,twin-mrope"), "one model at a time"),
        (("run", "--tasks", "docvqa", "--fail-on-error", "2"), "between 0 and 1"),
        ((*RUN_SUMS, "--model-args", "speed=3"), "speed"),
        (("ask", "none.png", "What?"), "no such file"),
        (("ask", SUMS), "The question comes last"),
        (("ask", ".", "What?"), "a folder; name its files"),
        (("ask", SUMS, " "), "an empty question"),
        (("ask", "https://example.com/cat.jpg", "What?"), "download the file first"),
        (("compare", "a", "b"), "no such cell or model"),
        (("rescore",), "no results"),
        (("leaderboard", "--paper"), "no results"),
        (("frobnicate",), "invalid choice"),
        (("tasks", "nothing"), "unknown task"),
    ],
)
def test_exit_code_2_for_a_wrong_command_with_what_is_right(
    args: tuple[str, ...], message: str, evalkit: Evalkit, tmp_path: Path
) -> None:
    done = evalkit(*args)
    assert done.code == 2
    assert message in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("list",), "did you mean tasks?"),
        (("evaluate", "docvqa"), "did you mean run?"),
        (("run", "--tasks", "docvqa", "--num_fewshot", "5"), "examples come from a named subset"),
        (("run", "--tasks", "docvqa", "--log_samples"), "always journaled"),
        (("run", "--tasks", "docvqa", "--gen_kwargs", "x=1"), "greedy"),
        (("run", "--tasks", "docvqa", "--position", "rope1d"), "--switch position=VALUE"),
        (("run", "--tasks", "docvqa", "--model-args", "pretrained=x"), "write --model x"),
        (("run", "docvqa", "--model-args", "position=rope1d"), "write --switch position=rope1d"),
        (("run", "--tasks", "docvqa", "--model", "nano", "--model", "x"), "given twice"),
        (("run", "--tasks", "docvqa", "--limit", "3", "--limit=4"), "given twice"),
        (("run", "--tasks", "docvqa", "--batch-size", "many"), "expected a whole number"),
        (("bench", "--items", "0"), "expected a whole number above 0"),
        (("train", "smoke"), "--output FOLDER is required"),
    ],
)
def test_habits_of_other_tools_are_answered_with_what_to_write_here(
    args: tuple[str, ...], message: str, evalkit: Evalkit
) -> None:
    done = evalkit(*args)
    assert done.code == 2
    assert message in done.err


def test_options_of_other_tools_are_read_as_meant(evalkit: Evalkit, tmp_path: Path) -> None:
    done = evalkit(
        "run", SUMS, "--adapter", ADDER, "--model_args", "wrong=3", "--batch_size", "auto",
        "--output_path", "elsewhere", "--limit", "0.1",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "4 (partial)" in done.out
    (cell,) = cells(tmp_path / "elsewhere")
    assert cell.run.identity.fingerprint["wrong"] == 3


def test_no_suggestion_for_an_option_that_is_right(evalkit: Evalkit) -> None:
    assert "did you mean" not in evalkit("run", "--model").err


def test_evalkit_alone_shows_its_help(evalkit: Evalkit) -> None:
    done = evalkit()
    assert done.code == 0 and "usage: evalkit" in done.out
    assert evalkit("-V").out == evalkit("--version").out != ""


def test_home_is_expanded_wherever_a_path_is_given(
    evalkit: Evalkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sums.py").write_text(Path(SUMS).read_text())
    (tmp_path / "adder.py").write_text(Path(ADDER).read_text())
    (tmp_path / "rows").mkdir()
    done = evalkit(
        "run", "--tasks", "~/sums.py", "--adapter", "~/adder.py", "--data", "sums:all=~/rows",
        "--model", "~/model", "--output", "~/out",
    )  # fmt: skip
    assert done.code == 0, done.err
    (cell,) = cells(tmp_path / "out")
    assert cell.run.identity.fingerprint["model"] == str(tmp_path / "model")
    assert not (tmp_path / "~").exists()


def test_a_number_of_a_switch_may_be_written_with_an_exponent(
    evalkit: Evalkit, tiny: str, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (80, 60), "red").save(tmp_path / "p.png")
    ask = ("ask", "p.png", "What?", "--model", tiny, "--max-new-tokens", "2")
    assert evalkit(*ask, "--switch", "max_pixels=1e6", "--dtype", "fp32").code == 0
    assert "whole number" in evalkit(*ask, "--switch", "max_pixels=1.5").err


@pytest.mark.parametrize(
    "args", [("--help",), ("tasks",), ("run", "--help"), ("models",), ("leaderboard", "--help")]
)
def test_light_verbs_import_nothing_heavy(args: tuple[str, ...], tmp_path: Path) -> None:
    heavy = (
        "{'torch', 'pandas', 'datasets', 'transformers', 'pyarrow', 'scipy', 'numpy', 'PIL', "
        "'pydantic', 'yaml', 'jinja2', 'rapidfuzz'}"
    )
    assert imported(args, heavy, tmp_path) == "[]"


def test_the_help_imports_the_verbs_alone(tmp_path: Path) -> None:
    behind = (
        "{'evalkit.types', 'evalkit.task', 'evalkit.adapter', 'evalkit.api', 'evalkit.sources', "
        "'evalkit.config_files', 'importlib.metadata'}"
    )
    assert imported(("--help",), behind, tmp_path) == "[]"


@pytest.mark.parametrize(
    "args",
    [
        ("switches",),
        ("tasks", "docvqa"),
        ("leaderboard",),
        ("leaderboard", "--by", "parity"),
        ("compare", "adder", "other"),
        ("report",),
        ("show", "other"),
        ("rescore", "other"),
    ],
)
def test_what_was_run_and_can_be_switched_is_shown_without_large_packages(
    args: tuple[str, ...], evalkit: Evalkit, tmp_path: Path
) -> None:
    for name in ("adder", "other"):
        assert evalkit(*RUN_SUMS, "--limit", "2", "--name", name).code == 0
    heavy = "{'torch', 'transformers', 'datasets', 'pandas', 'scipy'}"
    assert imported(args, heavy, tmp_path) == "[]"


def imported(args: tuple[str, ...], modules: str, cwd: Path) -> str:
    """Which of the modules a command line imports."""
    return after(args, f"import sys; print(sorted({modules} & set(sys.modules)))", cwd)


def after(args: tuple[str, ...], code: str, cwd: Path) -> str:
    """The last line that ``code`` prints in a process in which a command line was run before."""
    code = (
        f"from evalkit.cli import main\ntry: main({list(args)!r})\nexcept SystemExit: pass\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip().splitlines()[-1]


def test_what_a_run_has_imported_is_not_searched_for_garbage(tmp_path: Path) -> None:
    code = "import gc; print(gc.isenabled(), 10 * len(gc.get_objects()) < gc.get_freeze_count())"
    run = ("run", "--tasks", "docvqa", "--limit", "1", "-q")
    assert after(run, code, tmp_path) == "True True"


def test_what_is_garbage_while_a_program_loads_goes_meanwhile() -> None:
    code = (
        "import gc\nfrom evalkit.malloc import staying\n"
        "before = gc.get_threshold()\n"
        "with staying():\n"
        "    for _ in range(500_000):\n        a = []\n        a.append(a)\n"
        "    print(len(gc.get_objects()) < 150_000)\n"
        "print(gc.get_threshold() == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "True"]


def test_a_short_run_imports_nothing_for_tables_and_intervals(tmp_path: Path) -> None:
    heavy = "{'pandas', 'scipy', 'datasets', 'transformers', 'pydantic', 'yaml', 'torch._dynamo'}"
    run = ("run", "--tasks", "docvqa", "--limit", "1", "-q")
    assert imported(run, heavy, tmp_path) == "[]"


def test_a_limited_run_warns_that_it_must_not_be_quoted(evalkit: Evalkit) -> None:
    done = evalkit(*RUN_SUMS, "--limit", "5")
    assert "the first 5 of 40 samples" in done.err and "never quote" in done.err
    assert "5 (partial)" in done.out
    assert "never quote" in evalkit(*RUN_SUMS, "--limit", "5", "--seed", "1").err


def test_quiet_leaves_only_warnings_and_the_table(evalkit: Evalkit) -> None:
    done = evalkit(*RUN_SUMS, "-q")
    assert done.err == "" and "77.5" in done.out


def test_a_dry_run_says_what_is_to_do_and_runs_nothing(evalkit: Evalkit, tmp_path: Path) -> None:
    done = evalkit(*RUN_SUMS, "--dry-run")
    assert done.code == 0
    assert "sums:all: 0 of 40; 40 to go" in done.out
    assert not (tmp_path / "results").exists()
    evalkit(*RUN_SUMS, "--limit", "8")
    assert "8 of 40; 32 to go" in evalkit(*RUN_SUMS, "--dry-run").out
    assert "8 of 20; 12 to go" in evalkit(*RUN_SUMS, "--dry-run", "--limit", "50%").out


@pytest.mark.parametrize(
    ("asked", "said", "codes"),
    [
        (
            ("--sample-id", "sums/39"),
            "has no sample with id 'sums/39'; did you mean 'sum/39'",
            (2, 2),
        ),
        (
            ("--sample-id", "sum/3", "--sample-id", "none"),
            "sums:all has no sample with id 'none'; its 40 ids are like 'sum/0', 'sum/1', 'sum/2'",
            (2, 2),
        ),
        (("--sample-id", "none", "--shard", "1/2"), "no sample with id 'none'", (2, 2)),
        (
            ("--limit", "40-50"),
            "nothing was selected: samples 40 to 50 were asked for, and there are 40",
            (1, 1),
        ),
        (("--limit", "39-50"), "", (0, 0)),
        (("--limit", "999"), "", (0, 0)),
    ],
)
def test_a_dry_run_refuses_the_samples_that_the_run_would(
    evalkit: Evalkit, asked: tuple[str, ...], said: str, codes: tuple[int, int]
) -> None:
    dry, run = evalkit(*RUN_SUMS, *asked, "--dry-run"), evalkit(*RUN_SUMS, *asked)
    assert (dry.code, run.code) == codes
    assert said in dry.err and said in run.err
    assert not said or "to go" not in dry.out


def test_a_range_beyond_one_task_leaves_the_others(evalkit: Evalkit) -> None:
    both = (*RUN_SUMS, "docvqa", "--limit", "200-210", "--dry-run")
    done = evalkit(*both)
    assert (done.code, "docvqa:mini: 0 of 10" in done.out) == (1, True)
    assert "sums:all: nothing was selected" in done.err
    rows = json.loads(evalkit(*both, "--json").out)
    assert sorted((row["task"], bool(row["error"])) for row in rows) == [
        ("docvqa:mini", False),
        ("sums:all", True),
    ]


def test_json_has_what_the_table_has(evalkit: Evalkit) -> None:
    (row, other) = json.loads(evalkit(*RUN_SUMS, "--json").out)
    assert (row["task"], row["metric"], row["value"], row["n"]) == ("sums:all", "exact", 77.5, 40)
    assert other["metric"] == "digits"
    assert json.loads(evalkit("models", "--json").out)[0]["name"]
    names = [t["task"] for t in json.loads(evalkit("tasks", "--json").out)]
    assert "docvqa" in names
    table = evalkit("tasks").out.splitlines()
    assert any("action_prediction, ... (21)" in line for line in table)
    assert max(map(len, table)) < 180
    assert json.loads(evalkit("tasks", "docvqa:mini", "--json").out)[0]["columns"]
    (outlook,) = json.loads(evalkit(*RUN_SUMS, "--dry-run", "--json").out)
    assert (outlook["scored"], outlook["total"]) == (40, 40)


def test_tasks_shows_the_prompt_columns_and_settings_of_one(evalkit: Evalkit) -> None:
    done = evalkit("tasks", "docvqa")
    assert done.code == 0
    for text in ("docvqa:mini", "questionId", "anls", "max new tokens", "<image>", "short words"):
        assert text in done.out


def test_switches_are_listed_with_values_and_meaning(evalkit: Evalkit) -> None:
    done = evalkit("switches")
    assert done.code == 0 and "position" in done.out and "rope1d" in done.out
    names = {s["name"] for s in json.loads(evalkit("switches", "--json").out)}
    assert {"position", "vision_gate", "max_pixels"} <= names
    assert "has no switches" in evalkit("switches", "--adapter", ADDER).out


def test_a_sample_that_is_named_twice_is_asked_once(evalkit: Evalkit) -> None:
    assert "1 sample by id" in evalkit(*RUN_SUMS, "--sample-id", "3", "--sample-id", "3").err


def test_compare_and_leaderboard_read_what_runs_left(evalkit: Evalkit) -> None:
    for wrong in ("5", "3"):
        evalkit(*RUN_SUMS, "--model", f"m{wrong}", "--model-args", f"wrong={wrong}")
    done = evalkit("compare", "m5", "m3")
    assert done.code == 0
    assert "a - b" in done.out and "sums:all" in done.out
    board = evalkit("leaderboard")
    assert "m5" in board.out and "m3" in board.out
    Path("results/leaderboard.csv").unlink()
    Path("results/leaderboard.csv").mkdir()  # nothing can be written there
    unwritten = evalkit("leaderboard")
    assert unwritten.code == 1 and "m5" in unwritten.out
    assert "leaderboard.csv: can't be written" in unwritten.err


def test_a_name_tells_models_apart_in_tables(evalkit: Evalkit) -> None:
    evalkit(*RUN_SUMS, "--name", "before")
    evalkit(*RUN_SUMS, "--name", "after", "--model-args", "wrong=3")
    assert evalkit("compare", "before", "after").code == 0


def test_ask_answers_one_question_about_a_picture(
    evalkit: Evalkit, tiny: str, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (80, 60), "red").save("p.png")
    settings = ("--model", tiny, "--max-new-tokens", "4")
    done = evalkit("ask", "p.png", "What colour?", *settings)
    assert done.code == 0 and done.out.strip() != ""
    unboxed = evalkit("ask", "p.png", "Where?", *settings, "--save", "o.png")
    assert unboxed.code == 1 and "no box" in unboxed.err
    (tmp_path / "bad.png").write_bytes(b"rubbish")
    bad = evalkit("ask", "bad.png", "What?", *settings)
    assert bad.code == 1 and "neither an image nor a video" in bad.err
    (tmp_path / "empty.png").touch()
    assert "empty.png: empty" in evalkit("ask", "empty.png", "What?", *settings).err


def test_ask_takes_several_files_none_and_goes_by_their_content(
    evalkit: Evalkit, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    Image.new("RGB", (60, 60), "red").save("one.gif")  # one frame: an image
    Image.new("RGB", (60, 60), "blue").save("png.mp4", "PNG")  # whatever it is called
    settings = ("--model", tiny, "--max-new-tokens", "4")
    assert evalkit("ask", "one.gif", "png.mp4", "Which is red?", *settings).code == 0
    assert evalkit("ask", "What is two and two?", *settings).code == 0
    with Path("png.mp4").open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        assert evalkit("ask", "-", "What colour?", *settings).code == 0
    Path("a.pdf").write_bytes(b"%PDF-1.7")
    assert "pictures of its pages" in evalkit("ask", "a.pdf", "What?", *settings).err


@pytest.mark.parametrize(
    ("save", "message"),
    [
        ("nowhere/box.png", "is no folder"),
        ("box.xyz", "not the suffix"),
        ("box.pdf2", "not the suffix"),
        (".", "not the suffix"),
    ],
)
def test_a_box_that_cant_be_saved_is_refused_before_the_model_runs(
    save: str, message: str, evalkit: Evalkit
) -> None:
    from PIL import Image

    Image.new("RGB", (60, 60), "red").save("p.png")
    done = evalkit("ask", "p.png", "Where?", "--save", save)
    assert done.code == 2 and message in done.err and done.out == ""


def test_nano_says_what_it_knows(evalkit: Evalkit) -> None:
    from PIL import Image

    Image.new("RGB", (60, 60), "red").save("p.png")
    done = evalkit("ask", "p.png", "What?", "--max-new-tokens", "2")
    assert done.code == 0 and "drawn data only" in done.err


def test_a_file_beside_the_command_hides_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pope").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["tasks", "pope"]) == 0 and "POPE" in capsys.readouterr().out


def test_a_custom_task_on_real_files_runs_through_the_reference_model(
    evalkit: Evalkit, tiny: str, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (90, 60), "blue").save(tmp_path / "blue.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "blue.png").read_bytes()[:60])
    (tmp_path / "colours.py").write_text(
        "from pathlib import Path\n"
        "from evalkit.task import Metric, Subset, Task\n"
        "from evalkit.types import Image, Message, Sample, Score, Text\n"
        "class Folder:\n"
        "    def rows(self, override=None):\n"
        "        yield from ({'path': p} for p in sorted(Path('.').glob('*.png')))\n"
        "    def describe(self, override=None):\n"
        "        return {'kind': 'folder'}\n"
        "class Colours(Task):\n"
        "    name = 'colours'\n"
        "    metrics = (Metric('exact'),)\n"
        "    subsets = {'all': Subset(Folder(), max_new_tokens=4)}\n"
        "    def samples(self, row):\n"
        "        yield Sample(row['path'].stem, (Message('user', (Image(row['path']), "
        "Text('Colour?'))),), row['path'].stem)\n"
        "    def score(self, sample, completion):\n"
        "        return Score({'exact': float(completion.text == sample.target)})\n"
    )
    done = evalkit("run", "--tasks", "./colours.py", "--model", tiny)
    assert done.code == 1
    assert "torn: unreadable image" in done.err
    (cell,) = cells(tmp_path / "results")
    assert (cell.results.n, cell.results.errors) == (1, 1)


def test_a_task_that_cant_run_does_not_stop_the_others(evalkit: Evalkit, tmp_path: Path) -> None:
    gone = tmp_path / "gone.py"
    gone.write_text(
        Path(SUMS)
        .read_text()
        .replace('name = "sums"', 'name = "gone"')
        .replace('return {"kind": "test"}', "raise DataError('the data are gone')")
        .replace("from evalkit.task", "from evalkit.errors import DataError\nfrom evalkit.task")
    )
    done = evalkit("run", "--tasks", f"{gone},{SUMS}", "--adapter", ADDER)
    assert done.code == 1
    assert "gone:all: the data are gone" in done.err
    assert "77.5" in done.out


WORDY = """
from evalkit import Completion, ModelAdapter, TokenCounts

class Wordy(ModelAdapter):
    name = "wordy"
    stats = {"cost": 0.25, "uncounted": 3}

    def __init__(self, model, *, cut):
        self.cut = cut

    @property
    def fingerprint(self):
        return {"cut": self.cut}

    def generate(self, requests):
        for n, request in enumerate(requests):
            most = request.max_new_tokens
            if n < self.cut:
                yield Completion(request.id, "1 and", "length", TokenCounts(1, 0, most))
            else:
                yield Completion(request.id, "1", "stop", TokenCounts(1, 0, most - 1))
"""


def test_a_run_says_its_cost_and_how_many_answers_are_cut_off(
    evalkit: Evalkit, tmp_path: Path
) -> None:
    (tmp_path / "wordy.py").write_text(WORDY)
    asked = ("run", "--tasks", SUMS, "--adapter", str(tmp_path / "wordy.py"), "--model", "m")
    many, few = (evalkit(*asked, "--model-args", f"cut={cut}").out for cut in (4, 3))
    assert "sums:all: 4 of 40 answers are as long as they may be" in many
    assert "as long as they may be" not in few
    assert "sums:all: cost 0.25" in few and "3 answers whose tokens" in few
    again = evalkit(*asked, "--model-args", "cut=3").out
    assert "nothing to do" in again and "sums:all: cost" not in again and "tokens" not in again


def test_answers_that_cant_be_read_give_a_hint(evalkit: Evalkit, tmp_path: Path) -> None:
    silent = tmp_path / "silent.py"
    silent.write_text(Path(ADDER).read_text().replace('text = "" if n == 7', 'text = "" if True'))
    done = evalkit("run", "--tasks", SUMS, "--adapter", str(silent))
    assert "no answer could be read" in done.out


def test_a_damaged_cell_elsewhere_does_not_spoil_a_run(evalkit: Evalkit, tmp_path: Path) -> None:
    evalkit(*RUN_SUMS, "--name", "damaged")
    (cell,) = cells(tmp_path / "results")
    for file in cell.path.glob("*.json"):
        file.write_text("{")
    assert evalkit(*RUN_SUMS).code == 0


def test_an_output_folder_that_cant_be_written_is_said_in_a_line(
    evalkit: Evalkit, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = evalkit(*RUN_SUMS, "--output", "file")
    assert done.code == 1
    assert "choose another folder with --output" in done.err and "Traceback" not in done.err
    assert done.out == "" and "leaderboard" not in done.err


def test_a_terminal_without_the_signs_and_a_reader_that_goes_away_end_nothing(
    tmp_path: Path,
) -> None:
    ascii_only = process(*RUN_SUMS, "--limit", "1", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert ascii_only.returncode == 0, ascii_only.stderr
    command = f"{sys.executable} -m evalkit {' '.join(RUN_SUMS)} | head -0; exit ${{PIPESTATUS[0]}}"
    piped = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert piped.returncode == 0 and "Broken" not in piped.stderr, piped.stderr
    closed = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m evalkit {' '.join(RUN_SUMS)} >&- 2>&-"],
        cwd=tmp_path,
        timeout=120,
    )
    assert closed.returncode == 0
    assert "77.5" in (tmp_path / "results" / "leaderboard.md").read_text()
