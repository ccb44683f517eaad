"""An index answers as a dictionary does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.index import Index, digest


@given(st.lists(st.tuples(st.text(max_size=2), st.none() | st.integers(0, 9))))
def test_an_index_answers_as_a_dictionary_does(items: list[tuple[str, int | None]]) -> None:
    index, expected = Index(), {}
    for text, number in items:
        if number is not None:
            index[text] = expected[text] = number
        elif text in expected:
            index.remove(text)
            del expected[text]
        else:
            with pytest.raises(KeyError):
                index.remove(text)
    assert len(index) == len(expected)
    there = [n for at, n in enumerate(index.numbers) if at not in index.gone]
    assert there == list(expected.values())
    for text in {text for text, _ in items} | {"another", ""}:
        assert index.get(text) == expected.get(text)
        assert (text in index) == (text in expected)
    assert index.total == sum(int.from_bytes(digest(text)) for text in expected)


def test_an_index_grows() -> None:
    index = Index("I")
    for i in range(5000):
        index[f"row-{i}"] = 2 * i
    assert [index.get(f"row-{i}") for i in range(5000)] == list(range(0, 10_000, 2))
    assert index.get("row-5000") is None and index.place("row-7") == 7


def test_what_was_removed_stays_so_while_an_index_grows_and_may_come_again() -> None:
    index = Index()
    for i in range(100):
        index[f"row-{i}"] = i
        if i % 2:
            index.remove(f"row-{i}")
    index["row-1"] = 7
    assert index.numbers[-1] == 7
    for i in range(100, 400):
        index[f"row-{i}"] = i
    assert len(index) == 351 and [index.get(f"row-{i}") for i in range(4)] == [0, 7, 2, None]


def test_what_is_added_keeps_the_number_that_it_had() -> None:
    index = Index()
    assert index.add("a", 3) is None and index.add("b", 4) is None
    assert (index.add("a", 5), index.get("a"), len(index)) == (3, 3, 2)
