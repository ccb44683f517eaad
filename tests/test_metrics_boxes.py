"""Boxes: one strict reading in the declared space, and an intersection over union that holds for
every pair of boxes.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.metrics.boxes import Box, from_xywh, iou, is_space, parse_box

numbers = st.floats(0, 2000, allow_nan=False)
sides = st.floats(0.5, 500)
boxes = st.tuples(numbers, numbers, sides, sides).map(from_xywh)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("(100,200),(300,400)", (200, 100, 600, 200)),
        ("the red car(100,200),(300,400)", (200, 100, 600, 200)),
        (
            "<|object_ref_start|>a<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>",
            (200, 100, 600, 200),
        ),
        ("( 100 , 200 ) , ( 300 , 400 )", (200, 100, 600, 200)),
        (
            "(100,200),(300,400) or (0,0),(999,999)",
            (200, 100, 600, 200),
        ),  # only the first box counts
        ("(100.5,200),(300,400)", (201, 100, 600, 200)),
        ("[100, 200, 300, 400]", None),  # another form
        ("(100,200) (300,400)", None),
        ("100,200,300,400", None),
        ("(100,200),(300", None),
        ("(300,200),(100,400)", None),  # flipped
        ("(100,400),(300,200)", None),
        ("(100,200),(100,400)", None),  # no area
        ("(300,200),(100,400) then (100,200),(300,400)", None),  # no second attempt
        ("", None),
    ],
)
def test_the_first_box_of_an_answer_is_read_strictly(text: str, box: Box | None) -> None:
    assert parse_box(text, "norm1000", width=2000, height=500) == (box and pytest.approx(box))


@pytest.mark.parametrize(
    ("space", "text", "box"),
    [
        ("norm1000", "(250,500),(500,1000)", (50, 50, 100, 100)),
        ("norm999", "(333,333),(666,999)", (200 / 3, 100 / 3, 400 / 3, 100)),
        ("norm1", "(0.25,0.5),(0.5,1)", (50, 50, 100, 100)),
        ("pixel", "(25,50),(50,100)", (25, 50, 50, 100)),
        ("norm1000:json", '```json\n[{"bbox_2d": [250, 500, 500, 1000]}]\n```', (50, 50, 100, 100)),
        ("norm1000:list", "<ref>it</ref><box>[[250, 500, 500, 1000]]</box>", (50, 50, 100, 100)),
        ("norm1:list", "[0.25, 0.50, 0.50, 1.00]", (50, 50, 100, 100)),
        ("norm1:list", "[0.30000000000000004, 1e-05, 0.5, 0.9]", (60, 0.001, 100, 90)),
        ("pixel:json", '{"bbox_2d": [25, 50, 50, 100], "label": "it"}', (25, 50, 50, 100)),
        ("pixel:list", "[25, 50, 50, 100]", (25, 50, 50, 100)),
        ("resized:json@100x25", '{"bbox_2d": [25, 5, 50, 20]}', (50, 20, 100, 80)),
        ("square:list", "[0.25, 0.5, 0.5, 0.75]", (50, 50, 100, 100)),
        ("crop:list", "[0.25, 0.5, 0.5, 1.0]", (75, 50, 100, 100)),
        ("loc1024", "<loc0512><loc0256><loc1023><loc0512> it", (50, 50, 100, 99.90234375)),
    ],
)
def test_numbers_are_read_in_the_declared_space_only(space: str, text: str, box: Box) -> None:
    assert parse_box(text, space, width=200, height=100) == pytest.approx(box)


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ("pixel", '{"bbox_2d": [25, 50, 50, 100]}'),
        ("pixel", "[25, 50, 50, 100]"),
        ("norm1000:json", "[250, 500, 500, 1000]"),
        ("norm1000:json", "(250,500),(500,1000)"),
        ("norm1:list", "(0.25,0.5),(0.5,1)"),
        ("norm1:list", "[0.25, 0.5, 0.5]"),
        ("loc1024", "<loc0512><loc0256><loc1023>"),
        ("loc1024", "[512, 256, 1023, 512]"),
    ],
)
def test_a_box_in_another_form_than_the_declared_one_is_none(space: str, text: str) -> None:
    assert parse_box(text, space, width=200, height=100) is None


def test_a_space_is_a_unit_with_a_form() -> None:
    named = (
        "norm1000 norm999 norm1 pixel resized:json@616x476 resized:json square:list crop loc1024"
    )
    assert all(map(is_space, named.split()))
    wrong = "miles norm1000:xml pixel@6x4 resized@0x4 resized@6 loc1024:json loc1024@6x4 :json json"
    assert not any(map(is_space, [*wrong.split(), "", None, 3, ["pixel"]]))
    with pytest.raises(ValueError, match="'miles' is no box space"):
        parse_box("(1,2),(3,4)", "miles", 10, 10)
    with pytest.raises(ValueError, match="size is not said"):
        parse_box('{"bbox_2d": [1, 2, 3, 4]}', "resized:json", 10, 10)


def test_a_pixel_box_is_not_rescued_by_another_reading() -> None:
    truth = (100, 100, 300, 300)
    box = parse_box("(100,100),(300,300)", "norm1000", width=640, height=480)
    assert box
    assert iou(box, truth) < 0.5
    assert iou(parse_box("(100,100),(300,300)", "pixel", 640, 480) or box, truth) == 1.0


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (0, 0, 10, 5), 0.5),
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # an edge in common is no overlap
        ((0, 0, 10, 10), (2, 2, 4, 4), 0.04),
    ],
)
def test_iou_is_what_the_definition_says(a: Box, b: Box, value: float) -> None:
    assert iou(a, b) == pytest.approx(value)


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(a: Box, b: Box) -> None:
    assert 0.0 <= iou(a, b) <= 1.0
    assert iou(a, b) == pytest.approx(iou(b, a))


@given(boxes)
def test_iou_of_a_box_with_itself_is_one(box: Box) -> None:
    assert iou(box, box) == pytest.approx(1.0)


@given(
    st.text(alphabet="(), 0123456789.-ab\n", max_size=60),
    st.sampled_from(["norm1000", "norm999", "norm1", "pixel"]),
)
def test_no_answer_makes_the_parser_raise(text: str, space: str) -> None:
    box = parse_box(text, space, 640, 480)
    assert box is None or (box[0] < box[2] and box[1] < box[3])


@given(st.tuples(*[st.integers(0, 999)] * 4), st.integers(28, 2000), st.integers(28, 2000))
def test_a_written_box_is_read_back(corners: tuple[int, ...], width: int, height: int) -> None:
    x1, y1, x2, y2 = corners
    box = parse_box(f"({x1},{y1}),({x2},{y2})", "norm1000", width, height)
    if x1 < x2 and y1 < y2:
        assert box == pytest.approx(
            (x1 * width / 1000, y1 * height / 1000, x2 * width / 1000, y2 * height / 1000)
        )
    else:
        assert box is None


def test_a_true_box_without_area_is_an_error() -> None:
    with pytest.raises(ValueError, match="no area"):
        from_xywh([1, 2, 0, 4])
