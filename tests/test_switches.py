"""Switches are stated once: what is given is checked, compared with what the weights were trained
with, and documented from that one statement.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.adapter import adapter_class, read_switches
from evalkit.errors import CheckpointError, UsageError
from evalkit.models.limits import Limits, media_limits
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen2_vl.switches import CrossModal, Resolution, Switches
from evalkit.models.registry import FAMILIES, family
from evalkit.models.switch import Switch, SwitchSet, switch, switch_table, written

DOCS = Path(__file__).parent.parent / "docs"
RELEASED = Switches(theta=1e6)


@dataclass(frozen=True)
class Made(SwitchSet):
    """Switches of a family that is not there."""

    mode: str = switch("plain", choices=("plain", "odd"), help="how")
    strength: float = switch(1.0, kind=float, above=0, at_most=8, needs={"mode": ("odd",)})
    tokens: int | None = switch(None, kind=int, above=0, unset="the task's", budget=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0, 9, True, "3", None, [1]])
def test_a_new_numeric_switch_is_checked_by_its_metadata_alone(value: Any) -> None:
    with pytest.raises(UsageError, match="strength=.*: expected a number above 0, at most 8"):
        Made(mode="odd", strength=value)


@pytest.mark.parametrize("value", [0, 1.5, False, "4", math.nan])
def test_a_new_whole_switch_is_checked_by_its_metadata_alone(value: Any) -> None:
    with pytest.raises(UsageError, match="tokens=.*: expected a whole number above 0"):
        Made(tokens=value)
    assert Made(tokens=2e3).tokens == 2000


def test_a_switch_without_a_meaning_is_refused_and_left_behind() -> None:
    with pytest.raises(
        UsageError, match="strength=2.0 has no meaning under mode=plain: only .*odd"
    ):
        Made(strength=2.0)
    arm = Made(mode="odd", strength=2.0)
    assert arm.with_({"mode": "plain"}) == Made()
    with pytest.raises(UsageError, match="unknown switch strenght; there are: mode, strength"):
        arm.with_({"strenght": 1})


@pytest.mark.parametrize(
    ("trained_with", "given_", "changed"),
    [
        ({}, {}, {}),
        ({}, {"position": "mrope", "vision_gate": 1}, {}),
        ({}, {"theta": 1_000_000}, {}),
        ({}, {"resolution": "tokens:064"}, {"resolution": "tokens:64"}),
        ({}, {"cross_modal": "multiply:0.70"}, {"cross_modal": "multiply:0.7"}),
        ({}, {"vision_gate": 0.0}, {"vision_gate": 0}),
        ({}, {"max_pixels": 784}, {"max_pixels": 784}),
        ({}, {"vision_gate": None}, {}),
        ({"position": "rope1d"}, {"position": "rope1d"}, {}),
        ({"position": "rope1d"}, {"position": "mrope"}, {"position": "mrope"}),
        ({"position": "hope"}, {"temporal_spacing": 1}, {}),
        ({"position": "hope"}, {"position": "videorope"}, {"position": "videorope"}),
        (
            {},
            {"position": "videorope", "temporal_spacing": 2.0},
            {"position": "videorope"},
        ),
        (
            {},
            {"position": "videorope", "temporal_spacing": 1.0},
            {"position": "videorope", "temporal_spacing": 1},
        ),
        ({"max_pixels": 784}, {"max_pixels": 784}, {}),
    ],
)
def test_only_what_differs_from_the_trained_value_is_a_change(
    trained_with: dict[str, Any], given_: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert RELEASED.with_(trained_with).changed(given_) == changed


def test_budgets_make_no_inference_probe() -> None:
    assert not Switches.probes(["min_pixels", "max_pixels", "fps", "max_frames"])
    assert Switches.probes(["fps", "vision_gate"])


def test_parsed_values_are_parsed_once() -> None:
    switches = Switches().with_({"resolution": "size:224x448", "cross_modal": "bias:0.7"})
    assert switches.resolution == Resolution("size", (224, 448))
    assert switches.cross_modal == CrossModal("bias", 0.7)
    assert switches.with_({}) == switches


pixels = st.none() | st.integers(1, 10**7)


@given(*[pixels] * 6)
def test_a_switch_goes_before_the_task_and_the_task_before_the_checkpoint(
    a: int | None, b: int | None, c: int | None, d: int | None, e: int | None, f: int | None
) -> None:
    if a and b and a > b:
        a, b = b, a
    out = media_limits(Switches(min_pixels=a, max_pixels=b), Limits(c, d), Limits(e, f))
    low, high = a or c or e, b or d or f
    if b and low:  # a bound given by a switch moves the other out of its way
        low = min(low, b)
    if a and high:
        high = max(high, a)
    assert (out.min_pixels, out.max_pixels) == (low, high)


def test_frames_follow_the_same_order() -> None:
    task, checkpoint = Limits(fps=1.0, max_frames=8), Limits(fps=2.0, max_frames=768)
    assert media_limits(Switches(), task, checkpoint) == Limits(fps=1.0, max_frames=8)
    assert media_limits(Switches(), Limits(), checkpoint) == checkpoint
    assert media_limits(Switches(fps=4, max_frames=6), task, checkpoint) == Limits(
        fps=4, max_frames=6
    )


def test_a_checkpoint_trained_with_invalid_values_is_refused(tmp_path: Path) -> None:
    from evalkit.nano import checkpoint_folder

    config = Qwen2VLConfig.load(checkpoint_folder("nano")).to_dict()
    for trained_with, fault in (
        ({"position": "sideways"}, "position='sideways': expected one of"),
        ({"new_switch": 1}, "unknown switch new_switch"),
        ({"theta": -1}, "theta=-1: expected a number above 0"),
    ):
        with pytest.raises(CheckpointError, match=f"trained with.*{fault}"):
            Qwen2VLConfig.from_dict(config | {"evalkit": {"trained_with": trained_with}})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("max_pixels=1e6", 1_000_000),
        ("max_pixels = 50176", 50176),
        ("vision_position=none", "none"),
        ("vision_time=on", "on"),
        ("fps=0.5", 0.5),
        ("resolution=tokens:64", Resolution("tokens", (64,))),
    ],
)
def test_switches_are_read_from_text(text: str, value: Any) -> None:
    assert list(read_switches(adapter_class("reference"), "nano", [text]).values()) == [value]


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (["fps"], "expected name=value"),
        (["fps="], "fps='': expected a number above 0"),
        (["max_pixels=1.5"], "max_pixels=1.5: expected a whole number"),
        (["max_pixels=1_0x"], "max_pixels='1_0x': expected a whole number"),
        (["positon=rope1d"], "no switch positon .did you mean position"),
        (["fps=1", "fps=2"], "fps is given twice"),
    ],
)
def test_a_text_that_is_no_switch_is_refused(texts: list[str], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        read_switches(adapter_class("reference"), "nano", texts)


LATER = {
    name: switches.switches()
    for name in FAMILIES
    if name != "qwen2_vl" and f".{name}." in (switches := family(name).Switches).__module__
}
OWN = {
    name: {n: s for n, s in known.items() if s != Switches.switches().get(n)}
    for name, known in LATER.items()
}
"""Switches of the later generations, as far as they are not those of Qwen2-VL."""


@pytest.mark.parametrize("known", [Switches.switches(), *OWN.values()], ids=["qwen2_vl", *OWN])
def test_the_documented_tables_are_those_of_the_code(known: dict[str, Switch]) -> None:
    """Otherwise put ``switch_table(known, "markdown")`` between the markers."""
    table = switch_table(known, "markdown")
    said = f"put this between the markers of docs/ablations.md:\n{table}"
    assert table in (DOCS / "ablations.md").read_text(), said
    for name, one in known.items():
        assert one.help and one.read_in and one.source, name


@pytest.mark.parametrize("name", LATER)
def test_the_released_values_of_later_generations_are_no_change(name: str) -> None:
    released = family(name).Switches()
    given_ = {n: written(s.default) for n, s in LATER[name].items() if s.default is not None}
    assert released.with_(given_) == released
    assert released.changed(given_) == {}


@pytest.mark.parametrize(
    ("family_name", "switch"),
    [
        *(("qwen2_vl", s) for s in Switches.switches().values()),
        *((name, s) for name, own in OWN.items() for s in own.values()),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_the_place_that_reads_a_switch_is_there(family_name: str, switch: Switch) -> None:
    assert place_of(family_name, switch.read_in)


def test_the_documented_example_names_a_place_that_is_there() -> None:
    text = (DOCS / "adding_a_switch.md").read_text()
    (read_in,) = re.findall(r'read_in="(.*?)"', text)
    assert place_of("qwen2_vl", read_in)


def place_of(family_name: str, read_in: str) -> Any:
    """What ``read_in`` names."""
    module, *path = read_in.split(".")
    if module in FAMILIES:
        module, *path = f"{module}.{path[0]}", *path[1:]
    elif module != "limits":
        module = f"{family_name}.{module}"
    place: Any = import_module(f"evalkit.models.{module}")
    for name in path:
        place = getattr(place, name)
    return place


def test_listing_switches_imports_no_torch() -> None:
    code = (
        "import sys; from evalkit.cli import main; main(['switches']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "vision_gate" in done.stdout
