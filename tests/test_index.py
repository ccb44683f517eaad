"""An index answers as a dictionary does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evalkit.index import Index


@given(st.lists(st.tuples(st.text(max_size=2), st.integers(0, 9))))
def test_an_index_answers_as_a_dictionary_does(items: list[tuple[str, int]]) -> None:
    index, expected = Index(), {}
    for text, number in items:
        index[text] = expected[text] = number
    assert len(index) == len(expected)
    assert list(index.numbers) == list(expected.values())
    for text in {text for text, _ in items} | {"another", ""}:
        assert index.get(text) == expected.get(text)
        assert (text in index) == (text in expected)


def test_an_index_grows() -> None:
    index = Index("I")
    for i in range(5000):
        index[f"row-{i}"] = 2 * i
    assert [index.get(f"row-{i}") for i in range(5000)] == list(range(0, 10_000, 2))
    assert index.get("row-5000") is None and index.place("row-7") == 7


def test_what_is_added_keeps_the_number_that_it_had() -> None:
    index = Index()
    assert index.add("a", 3) is None and index.add("b", 4) is None
    assert (index.add("a", 5), index.get("a"), len(index)) == (3, 3, 2)
