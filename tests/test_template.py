"""A checkpoint's chat template is a stranger's program: it has so much time, memory and output."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from evalkit.errors import CheckpointError, DataError
from evalkit.models.qwen2_vl.chat import CHAT_TEMPLATE
from evalkit.models.template import Template

MESSAGES = {"messages": [{"role": "user", "content": "Grüße \ud83d?"}]}
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = (
    "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
    "{{ n.x }}"
)


def test_a_template_says_the_same_in_a_process_of_its_own() -> None:
    own, known = Template(CHAT_TEMPLATE), Template(CHAT_TEMPLATE, known=True)
    assert own.render(MESSAGES) == known.render(MESSAGES) != ""
    assert own.render(MESSAGES) == known.render(MESSAGES)  # and again in the same process


@pytest.mark.parametrize(
    "text",
    [
        "{% set a = 1 %}{% generation %}{{ a }}{% set a = 2 %}{% endgeneration %}{{ a }}",
        "{{ messages|tojson }}{{ messages|tojson(true) }}{{ messages|tojson(indent=1) }}",
        "{{ messages|tojson(separators=(',', ':'), sort_keys=true) }}",
        "  {% if strftime_now is string %}\n a\n  {% endif %}\n b\n",
        "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}{{ none }}{{ '<'|e }}<",
    ],
)
def test_a_template_says_what_it_says_in_transformers(text: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "user", "content": "Grüße <b>"}]
    (theirs,), _ = render_jinja_template(conversations=[messages], chat_template=text)
    assert Template(text, known=True).render({"messages": messages}) == theirs


@pytest.mark.parametrize(
    "text", ["{{ [1, 2]|random }}", "{{ lipsum() }}", "{{ strftime_now('%d') }}"]
)
def test_a_template_says_the_same_each_time_or_nothing(text: str) -> None:
    with pytest.raises(CheckpointError, match="can't be rendered"):
        Template(text).render(MESSAGES)


def test_a_template_that_loops_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_MAX_TEMPLATE_SECONDS", "0.5")
    template = Template("{% if messages|length > 1 %}" + LOOP + "{% endif %}fine")
    assert template.render({"messages": ["1"]}) == "fine"
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="over the limit of 0.5 seconds .EVALKIT_MAX_TEMPL"):
        template.render({"messages": ["1", "2"]})
    assert time.monotonic() - started < 10
    assert template.render({"messages": ["1"]}) == "fine"


@pytest.mark.parametrize(
    "text",
    [DOUBLED, "{{ 'x' * 10 ** 10 }}", "{{ 'x'|center(10 ** 10) }}", "{{ '%99999999999d' % 1 }}"],
)
def test_a_template_that_takes_all_memory_is_stopped(text: str) -> None:
    with pytest.raises(CheckpointError, match="EVALKIT_MAX_TEMPLATE_BYTES|too big|too large"):
        Template(text).render(MESSAGES)


def test_a_template_that_prints_without_measure_costs_the_prompt() -> None:
    with pytest.raises(DataError, match="a prompt of 3,000,000 characters: over the limit"):
        Template("{{ 'x' * 3000000 }}").render(MESSAGES)


def test_a_template_refuses_messages_or_cannot_be_rendered() -> None:
    for known in (True, False):
        with pytest.raises(DataError, match="refuses these messages: one turn only"):
            Template("{{ raise_exception('one turn only') }}", known).render(MESSAGES)
        with pytest.raises(CheckpointError, match="can't be rendered: .*undefined"):
            Template("{{ a.b.c }}", known).render(MESSAGES)
    with pytest.raises(CheckpointError, match="can't be rendered: .*Expected an expr"):
        Template("{% if %}").render(MESSAGES)


def test_a_template_imports_nothing_of_the_present_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jinja2", "json", "evalkit"):
        (tmp_path / f"{name}.py").write_text(f"open('{name}-ran', 'w')")
    monkeypatch.chdir(tmp_path)
    assert Template("fine").render(MESSAGES) == "fine"
    assert not list(tmp_path.glob("*-ran"))


def test_a_template_reads_no_file_and_no_attribute_of_python() -> None:
    for text in ("{% include '/etc/passwd' %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"):
        with pytest.raises(CheckpointError, match="can't be rendered"):
            Template(text).render(MESSAGES)
