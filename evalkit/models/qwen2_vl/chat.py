"""Text in and out: the tokenizer and chat template that a checkpoint carries (paper section 2.2.1,
"Data Format").

The template is rendered within bounds (``evalkit.models.template``); each ``<|image_pad|>`` or
``<|video_pad|>`` that it leaves is then repeated once per visual token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Tokenizer

from evalkit.engine.interface import Media
from evalkit.errors import CheckpointError, DataError
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen2_vl.rope import grid_tokens
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.models.template import Template
from evalkit.models.weights import TEMPLATE_FOLDERS, check_size, read_json, read_text

log = logging.getLogger(__name__)

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
NAMING = (
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "model_specific_special_tokens",
)
"""What in a tokenizer's settings names tokens, beside their roles (``eos_token``, ...)."""
FLAGS = ("lstrip", "rstrip", "normalized", "single_word")
"""What decides how a text is cut at an added token."""


class Chat:
    """The tokenizer and template of one checkpoint."""

    template_text: ClassVar[str] = CHAT_TEMPLATE

    def __init__(
        self, folder: Path, config: Qwen2VLConfig, switches: Switches | None = None
    ) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file; the checkpoint needs its fast tokenizer (tokenizer.json)"
            )
        check_size(path)
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as e:  # it raises nothing narrower
            raise CheckpointError(f"{path}: not a tokenizer ({e}); download it again") from e
        if self.tokenizer.get_vocab_size() > config.text.vocab_size:
            raise CheckpointError(
                f"{path}: {self.tokenizer.get_vocab_size():,} tokens, and the model has embeddings "
                f"for {config.text.vocab_size:,}: the tokenizer of another model"
            )
        _check_tokenizer(folder, self.tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.config, self.switches = config, switches or config.trained
        self.visual_ids = frozenset((config.image_token_id, config.video_token_id))
        text = _template(folder, self.template_text)
        self.template = Template(text, known=text == self.template_text)
        self.special_tokens = _special_tokens(folder)
        self.stop_ids = stop_ids(folder, config.eos_token_ids)

    @property
    def generation(self) -> str:
        """How answers are generated, in words."""
        return generation(self.stop_ids, *self.config.eos_token_ids, self.config.bos_token_id)

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt text of messages in the chat format (``role``, ``content`` of text, image and
        video parts).

        Raises CheckpointError for a template that can't be rendered, DataError for messages that it
        refuses.
        """
        if not messages:
            raise DataError("there are no messages to make a prompt of")
        return self.template.render(
            {
                "messages": list(messages),
                "add_generation_prompt": add_generation_prompt,
                "tools": None,
                "documents": None,
                **self.special_tokens,
            }
        )

    def encode(self, text: str, media: Sequence[Media] = ()) -> list[int]:
        """Token ids of a rendered prompt, each visual placeholder repeated for its grid.

        Raises DataError when placeholders and media do not match, for instance because a question
        contains one.
        """
        waiting = {
            self.config.image_token_id: [m.grid for m in media if not m.is_video],
            self.config.video_token_id: [m.grid for m in media if m.is_video],
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
            out += [token] * grid_tokens(waiting[token].pop(0))
        if any(waiting.values()):
            raise DataError("the chat template dropped an image or a video")
        return out

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens skipped."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


def _template(folder: Path, released: str) -> str:
    """The default chat template of a checkpoint, from the places where transformers' processor
    looks, in its order; the ``released`` one when there is none.

    Raises CheckpointError for templates of which none is the default, and logs a warning where two
    places disagree.
    """
    places: dict[str, str] = {}
    for name in ("processor_config.json", "chat_template.json"):
        path = folder / name
        if path.is_file() and (value := read_json(path).get("chat_template")) is not None:
            places[name] = _default(path, value)
    if (folder / "chat_template.jinja").is_file():
        path = folder / "chat_template.jinja"
        places[path.name] = read_text(path)
    for name in TEMPLATE_FOLDERS:
        named = {f.stem: read_text(f) for f in (folder / name).glob("*.jinja")}
        if "default" in named or (named and not places):
            places[name] = _default(folder / name, named)
    path = folder / "tokenizer_config.json"
    if path.is_file() and (value := read_json(path).get("chat_template")) is not None:
        places[path.name] = _default(path, value)
    if not places:
        log.warning("%s: no chat template; the one of the released models is used", folder)
        return released
    name, template = next(iter(places.items()))
    if others := [other for other, text in places.items() if text.strip() != template.strip()]:
        log.warning(
            "%s: the chat template of %s is used; %s has another", folder, name, ", ".join(others)
        )
    return template


def _default(path: Path, value: Any) -> str:
    """The template to use of what a place holds: a text, or several by name."""
    if isinstance(value, list):  # as tokenizer_config.json writes several
        try:
            value = {entry["name"]: entry["template"] for entry in value}
        except (TypeError, KeyError):
            value = None
    if isinstance(value, dict):
        if "default" not in value:
            raise CheckpointError(
                f"{path}: chat templates {', '.join(sorted(map(str, value)))}, and none is named "
                "'default': name the one to use so"
            )
        value = value["default"]
    if not isinstance(value, str):
        raise CheckpointError(f"{path}: its chat_template is no text, nor several by name")
    return value


def _check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Raises CheckpointError for a tokenizer of which `transformers` would make another one: it
    adds the tokens that other files name, and those that frame every text.
    """
    there = {t.content: t for t in tokenizer.get_added_tokens_decoder().values()}
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        path = folder / name
        raw = read_json(path) if path.is_file() else {}
        named = [{"content": t} for t in raw] if name == "added_tokens.json" else _named(raw)
        for told in named:
            token = there.get(str(told["content"]))
            if (
                token is None
                or (told.get("special") and not token.special)
                or any(told.get(f, getattr(token, f)) != getattr(token, f) for f in FLAGS)
            ):
                raise CheckpointError(
                    f"{path}: the token {told['content']!r} is not among the added tokens of "
                    "tokenizer.json, or otherwise: load the tokenizer in transformers, which adds "
                    "it, and save it again"
                )
    if tokenizer.num_special_tokens_to_add(False):
        raise CheckpointError(
            f"{folder / 'tokenizer.json'}: its post_processor adds tokens to every text; the "
            "released models have none that does"
        )
    if getattr(tokenizer.model, "dropout", None):
        raise CheckpointError(
            f"{folder / 'tokenizer.json'}: dropout {tokenizer.model.dropout}: a text would have "
            "other tokens each time; set it to null"
        )


def _named(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The tokens that a tokenizer's settings name, with what they say of them."""
    for key, value in raw.items():
        if key.endswith("_token"):
            value = [value]
        elif key not in NAMING or not isinstance(value, list | dict):
            continue
        for token in value.values() if isinstance(value, dict) else value:
            if isinstance(token, str):  # transformers leaves additional ones as they are
                yield {"content": token, "special": key != "additional_special_tokens"}
            elif isinstance(token, dict) and "content" in token:
                yield token


def _special_tokens(folder: Path) -> dict[str, str]:
    """The tokenizer's special tokens by their role (``eos_token``, ...), which templates may
    write.
    """
    path = folder / "tokenizer_config.json"
    raw = read_json(path) if path.is_file() else {}
    tokens = {k: v.get("content") if isinstance(v, dict) else v for k, v in raw.items()}
    return {k: v for k, v in tokens.items() if k.endswith("_token") and isinstance(v, str)}


def stop_ids(folder: Path, eos: int | Sequence[int] | None) -> frozenset[int]:
    """The tokens that end an answer: those of ``generation_config.json``, else ``eos``, the
    configuration's. Raises CheckpointError.
    """
    path = folder / "generation_config.json"
    own = read_json(path).get("eos_token_id") if path.is_file() else None
    ends = eos if own is None else own
    ids: list[Any] = [ends] if isinstance(ends, int | str) else list(ends or ())
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise CheckpointError(f"{path}: eos_token_id is {ends!r}, not a token id or a list of them")
    return frozenset(ids)


def generation(stops: frozenset[int], *released: Any) -> str:
    """How answers are made, for fingerprints: greedily, and until which tokens where they are not
    the ``released`` ones, the ends of a turn and of a text."""
    return (
        "greedy"
        if stops == frozenset(released)
        else f"greedy until {', '.join(map(str, sorted(stops)))}"
    )
