"""ANLS agrees with its published definition, and the two readings of it that are in use are told
apart.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.metrics.anls import anls, exact_match

texts = st.text(max_size=12)


@pytest.mark.parametrize(
    ("prediction", "answers", "value"),
    [
        ("7890", ["7890"], 1.0),
        ("  SEVEN  hundred ", ["seven hundred"], 1.0),  # case and blanks don't count
        ("7891", ["7890"], 0.75),  # one of four characters is wrong
        ("7891", ["nothing like it", "7890"], 0.75),  # the best answer counts
        ("ab", ["ax"], 0.5),  # exactly the threshold is kept
        ("abc", ["axy"], 0.0),  # 1/3 is under it
        ("", ["7890"], 0.0),
        ("the answer is 7890", ["7890"], 0.0),  # 14 edits over 18
        ("", [""], 1.0),
    ],
)
def test_anls_is_what_the_definition_says(
    prediction: str, answers: list[str], value: float
) -> None:
    assert anls(prediction, answers) == pytest.approx(value)


def test_surplus_blanks_raise_the_score_only_where_raw_lengths_are_asked_for() -> None:
    prediction, answers = "abxy      ef", ["abcd ef"]
    assert anls(prediction, answers, lengths="normalised") == pytest.approx(5 / 7)
    assert anls(prediction, answers) == pytest.approx(10 / 12)
    assert anls("abxy ef", answers) == pytest.approx(5 / 7)


def test_no_answers_is_an_error_not_a_zero() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        anls("x", [])
    with pytest.raises(ValueError, match="at least one answer"):
        exact_match("x", [])


def test_exact_match_forgives_case_and_blanks_only() -> None:
    assert exact_match(" New  YORK", ["new york", "NYC"]) == 1.0
    assert exact_match("New York.", ["new york"]) == 0.0


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_anls_is_zero_or_between_threshold_and_one(prediction: str, answers: list[str]) -> None:
    value = anls(prediction, answers)
    assert value == 0.0 or 0.5 <= value <= 1.0
    assert (value == 1.0) == (exact_match(prediction, answers) == 1.0)


@given(texts, texts)
def test_anls_is_symmetric(a: str, b: str) -> None:
    assert anls(a, [b]) == anls(b, [a])


@given(texts, st.lists(texts, min_size=1, max_size=3), texts)
def test_one_more_answer_never_lowers_the_score(
    prediction: str, answers: list[str], extra: str
) -> None:
    assert anls(prediction, [*answers, extra]) >= anls(prediction, answers)
