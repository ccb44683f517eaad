"""No secret leaves the process, and nothing that comes from outside commands a terminal, a
spreadsheet or a page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evalkit
from evalkit.adapter import registered
from evalkit.cli import main
from evalkit.cli.output import log_to_terminal, output_for_people
from evalkit.errors import EvalkitError, UsageError, reason
from evalkit.files import replace, replace_json
from evalkit.names import model_name, model_path
from evalkit.results import load_results, load_samples, write_leaderboard, write_report
from evalkit.results.report.page import render
from evalkit.results.tables import aligned, write_csv
from evalkit.safe_text import LONG, digest_of, harmless, is_secret, mask, masked, without_keys
from evalkit.store import cells
from tests.plugins.adder import Adder
from tests.runs import SUMS

# Put together here, so that nothing in this file looks like a key.
TAIL = "x7Kq2Vw9" * 5
TOKEN = "eyJ" + "hbGciOjF9.eyJzdWIiOjF9." + TAIL
SHAPED = {
    "openai": "sk-" + TAIL,
    "openai project": "sk-proj-" + TAIL,
    "anthropic": "sk-ant-api03-" + TAIL,
    "stripe": "sk_live_" + TAIL,
    "hugging face": "hf_" + TAIL,
    "github": "ghp_" + TAIL,
    "github oauth": "gho_" + TAIL,
    "github fine-grained": "github_pat_" + TAIL,
    "gitlab": "glpat-" + TAIL,
    "aws": "AKIA" + "Q7RSTUVWXYZ23456",
    "aws session": "ASIA" + "Q7RSTUVWXYZ23456",
    "google": "AIza" + TAIL,
    "google oauth": "ya29." + TAIL,
    "slack": "xoxb-" + "1234-" + TAIL,
    "slack hook": "hooks.slack.com/" + "services/T01/B02/" + TAIL,
    "discord hook": "https://discord.com/api/webhooks/123456/" + TAIL,
    "azure": "DefaultEndpointsProtocol=https;AccountKey=" + TAIL + "==;EndpointSuffix=x",
    "groq": "gsk_" + TAIL,
    "jwt": TOKEN,
    "npm": "npm_" + TAIL,
    "pypi": "pypi-" + TAIL,
    "nvidia": "nvapi-" + TAIL,
    "replicate": "r8_" + TAIL,
    "sendgrid": "SG." + TAIL + "." + TAIL,
    "bearer": "Bearer " + TAIL,
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMII" + TAIL + "\n-----END PRIVATE KEY-----",
    "address": "https://user:" + TAIL + "@host/v1",
    "address, name only": "https://" + TAIL + "@host/v1",
    "query": "https://host/v1?a=1&api_key=" + TAIL,
    "signed query": "https://host/v1?X-Amz-Signature=" + TAIL,
    "fragment": "https://host/v1#access_token=" + TAIL,
}
VARIABLES = {
    "OPENAI_API_KEY": "plainword" + "horse1",
    "AWS_SECRET_ACCESS_KEY": "wJalr/XUtn+FEMI=" + "K7MD",
    "HF_TOKEN": "q u i t e" + ' <odd> & "quoted"\\',
    "PGPASSWORD": "tiger7",
    "DB_PASS": "correct-horse",
    "SERVICE_KEYS": "firstkeyof2,secondkeyof2",
    "SESSION_COOKIE": "äöü-cookie-crumbs",
    "TOKEN_OF_BOB": "bobs-own-words",
    "DATABASE_URL": "postgres://u:" + "elephants" + "@host/db",
}
NAMED = {
    "api_key": "two words of it",
    "password": "hunter2",
    "Authorization": "Basic " + "dXNlcjpodW50ZXIy",
    "session": "abcdef",
    "client_secret": "ghijkl",
    "access_token": "mnopqr",
}
SPY = """
import json, os, sys, logging
from evalkit.adapter import ModelAdapter
from evalkit.types import Completion

with open(os.environ["PLANTED"]) as file:
    planted = json.load(file)
os.environ.update(planted["late"])
variables = {**planted["variables"], **planted["late"]}
said = [*planted["shaped"].values(), *variables.values()]
said += [repr({k: v}) for k, v in planted["named"].items()]
said += [f"{k}={v}" for k, v in planted["named"].items() if " " not in v]

class Spy(ModelAdapter):
    name = "spy"

    def __init__(self, model, **others):
        self.model, self.others = model, others

    @property
    def fingerprint(self):
        return {"adapter": self.name, "model": self.model, "switches": self.others, **planted}

    @property
    def details(self):
        return {"headers": planted["named"], "command": said, "others": str(self.others)}

    stats = details

    def generate(self, requests):
        for i, request in enumerate(requests):
            words = said[i % len(said)]
            if i == 38:
                yield Completion(request.id, " ".join(variables.values()))
            elif i == 39:
                print(*planted["shaped"].values(), variables)
                print(said, planted, file=sys.stderr)
                logging.getLogger("evalkit.spy").error("%s", said)
                raise RuntimeError(f"refused: {said}")
            else:
                yield Completion(request.id, finish_reason="error", error=f"401: {words}")
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, str]]]:
    """An adapter that says all secrets wherever it can, and the secrets."""
    monkeypatch.chdir(tmp_path)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    late = {"LATE_API_TOKEN": "set-when-imported"}
    monkeypatch.setenv("PLANTED", str(tmp_path / "planted.json"))
    out = {"shaped": SHAPED, "variables": VARIABLES, "named": NAMED, "late": late}
    (tmp_path / "planted.json").write_text(json.dumps(out))
    (tmp_path / "spy.py").write_text(SPY)
    yield out
    os.environ.pop("LATE_API_TOKEN", None)


def secrets_of(planted: dict[str, dict[str, str]]) -> dict[str, str]:
    """What must be found nowhere, by what it is."""
    own = {name: re.sub(r"(?s).*?(\w+)\W*$", r"\1", text) for name, text in SHAPED.items()}
    own["private key"] = "MII" + TAIL
    own["azure"] = TAIL
    own["address"] = own["address, name only"] = own["signed query"] = TAIL
    own |= NAMED | {"basic": "dXNlcjpodW50ZXIy"}
    own |= {k: v for k, v in VARIABLES.items() if k != "DATABASE_URL"}
    own |= {"database": "elephants", "one of two": "firstkeyof2", "other": "secondkeyof2"}
    return own | planted["late"]


def leaks(secrets: dict[str, str], text: str) -> list[str]:
    """Which secrets a text holds, in any form in which it may be written."""
    ways = (str, html.escape, lambda s: repr(s)[1:-1], lambda s: json.dumps(s)[1:-1])
    return sorted(name for name, s in secrets.items() if any(way(s) in text for way in ways))


def test_44_secrets_planted_everywhere_are_found_nowhere(
    planted: dict[str, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = secrets_of(planted) | {"free": "any-words-at-all"}
    assert len(secrets) >= 44
    arguments = ",".join(f"x{i}={v}" for i, v in enumerate(SHAPED.values()) if "\n" not in v)
    run = ("run", "--tasks", SUMS, "--adapter", "spy.py", "--model", SHAPED["address"])
    code = main((*run, "--model-args", f"y=any-words-at-all,{arguments}"))
    assert code == 1
    main(("leaderboard",))
    main(("report", "--save", "page.html"))
    main(("rescore",))
    said = capsys.readouterr()
    assert "refused: " in said.err and "401: " in (tmp_path / "page.html").read_text()
    assert leaks(secrets, said.out) == []
    assert leaks(secrets, said.err) == []
    written = [p for p in tmp_path.rglob("*") if p.name not in ("planted.json", "spy.py")]
    assert len([p for p in written if p.is_file()]) >= 6
    for path in written:
        assert leaks(secrets, str(path.relative_to(tmp_path))) == [], path
        if path.is_file() and path.suffix != ".pyc":
            assert leaks(secrets, path.read_text(encoding="utf-8")) == [], path


def test_what_older_results_hold_is_masked_where_it_is_shown(
    planted: dict[str, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evalkit.evaluate(SUMS, "m", adapter=Adder("m"), limit=12, progress=False)
    (cell,) = cells(tmp_path / "results")
    run = json.loads(cell.run_path.read_text())
    run["model"] = " ".join(SHAPED.values())
    cell.run_path.write_text(json.dumps(run))
    results = json.loads(cell.results_path.read_text())
    results["switches"] = {**NAMED, **VARIABLES}
    cell.results_path.write_text(json.dumps(results))
    lines = [json.loads(line) for line in cell.journal_path.read_text().splitlines()]
    lines[3] |= {"error": str(NAMED), "failed_in": "adapter"}
    cell.journal_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(("leaderboard",)) == 0
    assert main(("report", "--save", "page.html")) == 0
    shown = [*capsys.readouterr()]
    shown += [(tmp_path / "page.html").read_text()]
    shown += [p.read_text() for p in (tmp_path / "results").glob("leaderboard.*")]
    assert len(shown) == 5 and all("***" in text for text in shown if text)
    assert [leaks(secrets_of(planted), text) for text in shown] == [[]] * 5


def test_every_file_is_written_without_keys_but_for_bytes(tmp_path: Path) -> None:
    text = " ".join(SHAPED.values())
    replace(tmp_path / "a.txt", text)
    replace_json(tmp_path / "a.json", {"x": [text], **NAMED, "path/to/password": "stays"})
    replace(tmp_path / "a.bin", text.encode())
    written = (tmp_path / "a.txt").read_text() + (tmp_path / "a.json").read_text()
    assert leaks({"": TAIL} | NAMED, written) == [] and "stays" in written
    assert (tmp_path / "a.bin").read_text() == text


def test_an_address_is_a_name_and_no_path() -> None:
    assert model_path(SHAPED["address"]) == "" and model_name("https://h/v1") == "https://h/v1"


@pytest.mark.parametrize("name", NAMED)
def test_a_secret_is_refused_as_an_argument_without_being_repeated(
    name: str, planted: dict[str, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    value = NAMED[name]
    line = ("run", "--tasks", SUMS, "--adapter", "spy.py", "--model-args", f"{name}={value},x")
    assert main(line) == 2
    said = capsys.readouterr().err
    assert "environment" in said and name in said and value not in said
    with pytest.raises(UsageError, match="environment"):
        evalkit.evaluate(SUMS, "m", adapter="spy.py", progress=False, **{name: value})


def test_an_option_for_a_key_is_answered_with_the_environment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for option in ("--api-key", "--token", "--hf-token"):
        with pytest.raises(SystemExit):
            main(("run", "docvqa", f"{option}=hunter2", option, "hunter2"))
        said = capsys.readouterr().err
        assert "hunter2" not in said and option in said
        assert option == "--hf-token" or "set it in the environment" in said


def test_what_only_sounds_like_a_secret_is_taken_and_shown() -> None:
    command = "evalkit run --model-args batch_tokens=2048,max_new_tokens=5,tokenizer=x,image_key=y"
    assert mask(command) == command
    for text in (
        "Basic authentication is needed: the token is missing",
        "task-specific-Prompt1 of scikit-learn, hf_hub_download, npm_config_registry",
        "~/data/pass=1/key frames: 5, keys: a, eos_token_id: 3",
        "api_key: None",
        "3:/4 @ https://github.com/a@b",
    ):
        assert mask(text) == text


def test_no_setting_of_ours_is_taken_for_a_secret() -> None:
    from evalkit.cell_results import CellResults
    from evalkit.models.qwen2_vl.switches import Switches
    from evalkit.records import Record
    from evalkit.run_info import RunInfo

    fields = [*Record.__annotations__, *RunInfo.__annotations__, *CellResults.__annotations__]
    assert registered()
    for name in (*Switches.switches(), *fields, "text_in", "vision_in", "out", "generation"):
        assert not is_secret(name), name


def test_two_arguments_that_are_not_shown_are_still_two_cells(
    planted: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    for word in ("one", "two", "one"):
        evalkit.evaluate(SUMS, "m", adapter="spy.py", limit=2, y=word, progress=False)
    both = cells(tmp_path / "results")
    assert len(both) == 2
    shown = {c.run.identity.fingerprint["switches"]["y"]: c.run.command for c in both}
    assert set(shown) == {digest_of("one"), digest_of("two")}
    assert all(f"y='{digest}'" in command for digest, command in shown.items())


def test_a_prompt_that_looks_like_a_password_still_tells_cells_apart(tmp_path: Path) -> None:
    class Prompted(Adder):
        @property
        def fingerprint(self):  # type: ignore[no-untyped-def]
            return {"adapter": "adder", "prompt": self.prompt}

    for prompt in ("password: a", "password: b"):
        adapter = Prompted("adder")
        adapter.prompt = prompt  # type: ignore[attr-defined]
        evalkit.evaluate(SUMS, "m", adapter=adapter, output=tmp_path, limit=1, progress=False)
    assert len(cells(tmp_path)) == 2


def test_an_answer_that_looks_like_a_key_is_kept_as_it_is_and_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adder, "answer", _key_as_answer)
    done = evalkit.evaluate(SUMS, "m", adapter=Adder("m"), output=tmp_path, limit=1, progress=False)
    (sample,) = load_samples(tmp_path).to_dict("records")
    assert sample["text"] == SHAPED["openai"]
    assert sample["score_exact"] == 0 and not done.errors


def _key_as_answer(self, request):  # type: ignore[no-untyped-def]
    from evalkit.types import Completion

    return Completion(request.id, SHAPED["openai"])


def test_a_variable_that_was_taken_out_of_the_environment_is_still_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANY_TOKEN", "was-here-once")
    assert without_keys("x was-here-once y") == "x *** y"
    monkeypatch.delenv("ANY_TOKEN")
    assert without_keys("x was-here-once y") == "x *** y"


@pytest.mark.parametrize("name", SHAPED)
def test_a_key_is_found_in_a_long_text_too(name: str) -> None:
    words = "words\udc80 " * LONG
    assert without_keys(words) == words
    assert without_keys(words + SHAPED[name]) == words + without_keys(SHAPED[name])
    assert TAIL not in without_keys(words + SHAPED[name])


def test_a_secret_that_is_no_text_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAW_SECRET", os.fsdecode(b"\xff\xfe raw \x80 bytes"))
    assert without_keys(f"<{os.environ['RAW_SECRET']}>") == "<***>"


def test_short_words_and_paths_of_variables_are_not_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("A_KEY", "EMPTY"),
        ("B_TOKEN", "1234567"),
        ("SSH_AUTH_SOCK", str(tmp_path)),
        ("TOKEN_PATH", "some/where/else"),
        ("DESKTOP_SESSION", "ubuntu-xorg"),
        ("PWD", "/no/such/folder/at/all"),
    ):
        monkeypatch.setenv(name, value)
        assert without_keys(f"<{value}>") == f"<{value}>"


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_masking_twice_is_masking_once_and_json_stays_json(text: str) -> None:
    assert mask(mask(text)) == mask(text)
    packed = json.dumps({"a": f"{text} api_key={text} sk-{TAIL}{text}", "b": 1})
    assert json.loads(without_keys(packed))["b"] == 1
    assert masked({"a": [text, 1, None, True]})["a"][1:] == [1, None, True]


def test_errors_and_tracebacks_are_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"no access with {SHAPED['github']}, password={NAMED['password']}"
    for e in (EvalkitError(text), UsageError(text), ValueError(text)):
        assert leaks(SHAPED | NAMED, reason(e)) == []
    assert leaks(SHAPED | NAMED, str(EvalkitError(text))) == []

    for e, shown in (
        (RuntimeError(text), "RuntimeError: no access"),
        (SystemExit(text), "no access"),
    ):

        def fails(args: object, e: BaseException = e) -> int:
            raise e from KeyError(text)

        monkeypatch.setattr("evalkit.cli.tasks.main", fails)
        try:
            code = main(("tasks",))
        except SystemExit as ended:  # after a traceback
            code = ended.code
        said = capsys.readouterr().err
        assert code == 1 and shown in said
        assert leaks(SHAPED | NAMED, said) == []


# Terminals, spreadsheets, pages

ESCAPES = "\x1b[31m\x1b]0;title\x07\x9b2J\u202e\rgone\x00\x08"


def test_nothing_printed_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    with output_for_people(), log_to_terminal(0):
        print(f"answer: {ESCAPES}\tü\n")
        print(f"problem: {ESCAPES}", file=sys.stderr)
        logging.getLogger("evalkit").warning("sample %s", ESCAPES)
    said = capsys.readouterr()
    assert said.out.endswith("\tü\n\n") and "\\u001b[31m" in said.out
    bad = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
    assert not bad.search(said.out)
    assert not bad.search(said.err.replace("\rgone", "", 1))  # a bar needs it; messages don't


def test_a_hostile_model_name_stays_text_in_every_table_and_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (
        "=cmd|' /C calc'!A0",
        "[l](javascript:alert(1))",
        "@@DOCUMENTS@@ @@SCRIPT@@",
        "</script><img src=x onerror=alert(1)>",
        f"../../{ESCAPES}",
        r"a\|b|c`d` & $x_1^2 %",
    )
    for name in names:
        evalkit.evaluate(
            SUMS, "m", adapter=Adder("m"), name=name, output=tmp_path / "o", limit=2, progress=False
        )
    folders = [p for p in (tmp_path / "o").rglob("*") if p.is_dir()]
    assert all(re.fullmatch(r"[\w.+-]+", p.name) for p in folders)
    assert {p.name for p in tmp_path.iterdir()} == {"o"}
    csv, markdown = write_leaderboard(tmp_path / "o")
    read = pd.read_csv(csv)
    assert set(read["model"]) == {f"'{n}" if n[0] in "=@" else harmless(n) for n in names}
    assert read["value"].dtype == float
    page = markdown.read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)\]\(", page) and "<img" not in page and "\x1b" not in page
    pipes = {len(re.findall(r"(?<!\\)\|", line)) for line in page.splitlines() if line[:1] == "|"}
    assert len(pipes) <= 2  # of each of the two tables
    write_report(tmp_path / "o", tmp_path / "page.html")
    report = (tmp_path / "page.html").read_text(encoding="utf-8")
    documents = re.findall(r'id="document-[a-z0-9-]+">', report)
    assert report.count("<script") == len(documents) + 2 and "<img src=x" not in report
    packed = re.search(r'id="document-overview">(.*?)</script>', report, re.S)
    assert packed and {c["label"] for c in json.loads(packed[1])["cells"]} >= {names[2]}
    assert main(("leaderboard", "--output", str(tmp_path / "o"))) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert len(load_results(tmp_path / "o")) == 2 * len(names)


def test_formulas_are_neutralised_in_texts_alone(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "＝1", "a=1", " -1", ""]
    frame = pd.DataFrame({"text": texts, "value": [-1.5] * len(texts), "n": [-1] * len(texts)})
    read = pd.read_csv(write_csv(tmp_path / "x.csv", frame), keep_default_na=False)
    assert [t[:1] == "'" for t in read["text"]] == [True] * 7 + [False] * 3
    assert read["text"].tolist()[5:8] == ["'\\u000d=1", "'＝1", "a=1"]
    assert read["value"].tolist() == [-1.5] * len(texts) and read["n"].dtype == int


def test_a_page_runs_its_own_script_alone() -> None:
    page = render({"x": "<script>alert(1)</script>@@SCRIPT@@"})
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and f"script-src 'sha256-{digest}'" in policy[1]
    assert "unsafe-inline" not in policy[1].split("script-src")[1].split(";")[0]
    assert "@@SCRIPT@@" in page and "<script>alert" not in page


def test_columns_line_up_where_control_characters_are_shown() -> None:
    lines = aligned(("id", "n"), [(ESCAPES, "1"), ("x", "2")]).splitlines()
    assert len({len(line) for line in lines}) == 1 and "\x1b" not in "".join(lines)
