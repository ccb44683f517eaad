"""What is larger than anybody needs is refused, by an error that says what allows more."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image as PILImage

from evalkit.adapter import make_adapter
from evalkit.bounds import Bounds, bounds, over, reference, setting
from evalkit.config_files import Strict, read_yaml
from evalkit.errors import CheckpointError, DataError, UsageError
from evalkit.media import decode_image
from evalkit.models.weights import read_config
from evalkit.rows import image_size
from evalkit.types import Image, Message, Request, Text

ROOT = Path(__file__).parents[1]


def test_the_environment_sets_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bounds() == Bounds()
    monkeypatch.setenv("EVALKIT_MAX_IMAGE_PIXELS", "1_000")
    monkeypatch.setenv("EVALKIT_MAX_TEMPLATE_SECONDS", "2.5")
    assert bounds() == Bounds(image_pixels=1000, template_seconds=2.5)
    assert over("image_pixels") == (
        "over the limit of 1,000 pixels (EVALKIT_MAX_IMAGE_PIXELS sets another)"
    )


@pytest.mark.parametrize("value", ["", "-1", "0", "many", "1.5", "nan"])
def test_a_bound_is_a_whole_number_above_0(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EVALKIT_MAX_IMAGE_PIXELS", value)
    with pytest.raises(UsageError, match="EVALKIT_MAX_IMAGE_PIXELS=.*a whole number above 0"):
        bounds()


def test_a_mistyped_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_MAX_PIXELS", "5")
    with pytest.raises(UsageError, match="EVALKIT_MAX_PIXELS: there is no such bound; there are"):
        bounds()


def test_a_picture_over_a_bound_is_an_error_that_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PILImage.new("RGB", (40, 30)).save(path := tmp_path / "a.png")
    assert decode_image(Image(path)).size == (40, 30)
    monkeypatch.setenv("EVALKIT_MAX_IMAGE_PIXELS", "1199")
    with pytest.raises(DataError, match="image of 40x30 pixels: over .*EVALKIT_MAX_IMAGE_PIXELS"):
        decode_image(Image(path))
    monkeypatch.setenv("EVALKIT_MAX_IMAGE_BYTES", "20")
    for image in (Image(path), Image(path.read_bytes())):
        with pytest.raises(DataError, match="over the limit of 20 bytes .EVALKIT_MAX_IMAGE_BYTES"):
            decode_image(image)


def test_a_small_file_cannot_claim_a_huge_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    PILImage.new("L", (1, 1)).save(buffer := io.BytesIO(), "PNG")
    claims = struct.pack(">II", 20_000, 10_000)
    header = b"IHDR" + claims + buffer.getvalue()[24:29]
    data = buffer.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header))
    bomb = Image(data + buffer.getvalue()[33:])
    with pytest.raises(DataError, match="image .*over the limit of 178,956,970 pixels"):
        decode_image(bomb)
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", PILImage.MAX_IMAGE_PIXELS)
    monkeypatch.setenv("EVALKIT_MAX_IMAGE_PIXELS", "200_000_000")
    assert image_size(bomb) == (20_000, 10_000)  # Pillow's own bound gives way, too


def test_a_long_yaml_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- x\n" * 300_000)
    with pytest.raises(UsageError, match="1,200,000 bytes: over .*EVALKIT_MAX_YAML_BYTES"):
        read_yaml(tmp_path / "a.yaml", Strict)


def test_the_document_lists_all_bounds() -> None:
    assert reference() in (ROOT / "docs" / "media.md").read_text(encoding="utf-8")
    assert setting("image_pixels") == "EVALKIT_MAX_IMAGE_PIXELS"


def test_a_long_question_costs_its_own_sample_and_gets_the_right_advice() -> None:
    adapter = make_adapter("reference", "nano", {})
    texts = {"fits": "?", "long": "?" * 40_000, "huge": "?" * 1_000_001}
    requests = [Request(i, (Message("user", (Text(t),)),), 1) for i, t in texts.items()]
    errors = {c.id: c.error or "" for c in adapter.generate(requests)}
    adapter.close()
    assert errors["fits"] == ""
    assert "its text alone has 40,0" in errors["long"] and "shorten the question" in errors["long"]
    assert "a question of 1,000,001 characters: over the limit" in errors["huge"]
    assert "EVALKIT_MAX_PROMPT_CHARS" in errors["huge"]


def test_a_file_of_a_checkpoint_has_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    monkeypatch.setenv("EVALKIT_MAX_JSON_BYTES", "20")
    with pytest.raises(CheckpointError, match="config.json: 26 bytes: over .*MAX_JSON_BYTES"):
        read_config(tmp_path)
