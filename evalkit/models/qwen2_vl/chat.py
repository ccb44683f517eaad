"""Text in and out: the tokenizer and chat template that a checkpoint carries (paper section 2.2.1,
"Data Format").

The template is rendered in a sandbox; each ``<|image_pad|>`` or ``<|video_pad|>`` that it leaves is
then repeated once per visual token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from evalkit.errors import CheckpointError, DataError
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen2_vl.rope import Grid
from evalkit.models.weights import read_json

CHAT_TEMPLATE = """
{%- if messages[0].role != "system" %}{{ "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" }}{% endif -%}
{%- for message in messages -%}
{{- "<|im_start|>" + message.role + "\n" -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == "text" -%}{{- part.text -}}
{%- else -%}{{- "<|vision_start|><|" + part.type + "_pad|><|vision_end|>" -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\n" -}}{%- endif -%}
"""
"""The format of the released Instruct models, for checkpoints that carry no template."""


class Chat:
    """The tokenizer and template of one checkpoint."""

    def __init__(self, folder: Path, config: Qwen2VLConfig) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file; the checkpoint needs its fast tokenizer (tokenizer.json)"
            )
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as e:  # it raises nothing narrower
            raise CheckpointError(f"{path}: not a tokenizer ({e}); download it again") from e
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.config = config
        self.visual_ids = frozenset((config.image_token_id, config.video_token_id))
        self.template = _template(folder)
        self.stop_ids = stop_ids(folder, config.eos_token_id)

    @cached_property
    def _compiled(self) -> Any:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def raise_exception(message: str) -> None:
            raise DataError(f"the chat template refuses these messages: {message}")

        env = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        env.globals["raise_exception"] = raise_exception
        return env.from_string(self.template)

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt text of messages in the chat format (``role``, ``content`` of text, image and
        video parts).

        Raises CheckpointError for a template that can't be rendered, DataError for messages that it
        refuses.
        """
        try:
            return str(
                self._compiled.render(
                    messages=messages, add_generation_prompt=add_generation_prompt
                )
            )
        except DataError:
            raise
        except Exception as e:
            raise CheckpointError(f"the checkpoint's chat template can't be rendered: {e}") from e

    def encode(
        self, text: str, images: Sequence[Grid] = (), videos: Sequence[Grid] = ()
    ) -> list[int]:
        """Token ids of a rendered prompt, each visual placeholder repeated for its grid.

        Raises DataError when placeholders and media do not match, for instance because a question
        contains one.
        """
        waiting = {
            self.config.image_token_id: list(images),
            self.config.video_token_id: list(videos),
        }
        out: list[int] = []
        for token in self.tokenizer.encode(text, add_special_tokens=False).ids:
            if token not in waiting:
                out.append(token)
                continue
            if not waiting[token]:
                raise DataError(
                    "the text contains a visual placeholder token that belongs to no image or video"
                )
            t, h, w = waiting[token].pop(0)
            out += [token] * (t * h * w // self.config.vision.spatial_merge_size**2)
        if any(waiting.values()):
            raise DataError("the chat template dropped an image or a video")
        return out

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens skipped."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


def _template(folder: Path) -> str:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found = read_json(folder / name).get("chat_template")
            if isinstance(found, str):
                return found
    return CHAT_TEMPLATE


def stop_ids(folder: Path, eos: int | list[int] | None) -> frozenset[int]:
    """The tokens that end an answer: those of ``generation_config.json``, else ``eos``, the
    configuration's. Raises CheckpointError.
    """
    path = folder / "generation_config.json"
    given = read_json(path).get("eos_token_id") if path.is_file() else None
    found = eos if given is None else given
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(i, int) for i in ids):
        raise CheckpointError(
            f"{path}: eos_token_id is {found!r}, not a token id or a list of them"
        )
    return frozenset(ids)


def generation(stops: frozenset[int], *released: Any) -> str:
    """How answers are made, for fingerprints: greedily, and until which tokens where they are not
    the ``released`` ones, the ends of a turn and of a text."""
    return (
        "greedy"
        if stops == frozenset(released)
        else f"greedy until {', '.join(map(str, sorted(stops)))}"
    )
