"""A multiple-choice answer is read only when it can be read in one way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.metrics.choice import LETTERS, parse_choice

PETS = ["a cat", "a dog", "a bird", "two dogs", "none of them"]


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        "b",
        "B.",
        "(B)",
        "(b)",
        "B)",
        "B:",
        " B \n",
        "B. a dog",
        "(B) a dog",
        "B) a dog",
        "B: a dog",
    ],
)
def test_a_letter_names_its_option(answer: str) -> None:
    assert parse_choice(answer, PETS) == 1


@pytest.mark.parametrize("answer", ["a dog", "A dog.", "  A   DOG  "])
def test_the_text_of_one_option_names_it(answer: str) -> None:
    assert parse_choice(answer, PETS) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "",
        ".",
        "A cat is on the mat, so D",  # begins with a letter that is a word
        "I think it's option C because A is wrong",
        "Definitely not",
        "It is a cat",
        "dog",  # part of two options
        "F",  # there is no sixth option
        "F. six",
        "F. a cat",  # not even where an option's text follows
        "B. a cat",  # the letter says one thing, the text another
        "B or C",
        "B, C",
        "BC",
        "Answer the question",
    ],
)
def test_anything_else_is_unparsed(answer: str) -> None:
    assert parse_choice(answer, PETS) is None


def test_an_answer_with_two_readings_is_unparsed() -> None:
    assert parse_choice("A", ["B", "A"]) is None
    assert parse_choice("up", ["up", "Up."]) is None
    assert parse_choice("B. up", ["up", "Up."]) == 1
    assert parse_choice("x", ["x", "y"]) == 0


@given(st.text(max_size=40), st.lists(st.text(max_size=10), max_size=5))
def test_any_text_is_an_option_or_unparsed(answer: str, options: list[str]) -> None:
    index = parse_choice(answer, options)
    assert index is None or 0 <= index < len(options)


@given(
    st.lists(
        st.text(alphabet="xyzäß ", min_size=3, max_size=10).filter(str.strip),
        min_size=2,
        max_size=5,
    ),
    st.data(),
)
def test_every_option_can_be_named_by_letter(options: list[str], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(options) - 1))
    for answer in (LETTERS[index], f"({LETTERS[index]})", f"{LETTERS[index]}. {options[index]}"):
        assert parse_choice(answer, options) == index


@given(st.integers(5, 25), st.sampled_from(PETS))
def test_a_letter_that_names_no_option_is_unparsed_in_every_form(index: int, option: str) -> None:
    letter = LETTERS[index]
    for form in (
        "{}",
        "{}.",
        "({})",
        "{}:",
        "{}. {o}",
        "({}) {o}",
        "{}) {o}",
        "{}: {o}",
        "({}). {o}",
    ):
        assert parse_choice(form.format(letter, o=option), PETS) is None


def test_an_option_that_looks_like_a_marked_letter_is_named_by_its_whole_text() -> None:
    assert parse_choice("F. Kennedy", ["a dog", "F. Kennedy"]) == 1
    assert parse_choice("I", ["you", "I"]) == 1
