"""A small random checkpoint in the released format, with the structure of the releases (head sizes,
sections, special tokens).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from evalkit.models.qwen2_vl.chat import CHAT_TEMPLATE
from evalkit.models.qwen2_vl.checkpoint import save
from evalkit.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, VisionConfig
from evalkit.models.qwen2_vl.model import Qwen2VL
from evalkit.nano.tokenizer import SPECIALS, SPLIT
from tests.oracle import random_weights

TINY_MODEL = {
    "vision_depth": 1,
    "vision_width": 32,
    "vision_heads": 1,
    "depth": 1,
    "width": 32,
    "heads": 1,
    "intermediate": 32,
}
"""Of a training recipe: the smallest model that the nano recipes can make."""


def write_tiny(
    folder: Path,
    seed: int = 0,
    heads: int = 2,
    kv_heads: int = 1,
    layers: int = 2,
    tied: bool = True,
) -> Path:
    """Writes a checkpoint of under a million parameters with a byte vocabulary; returns the
    folder.
    """
    tokenizer = byte_tokenizer()
    ids: dict[str, Any] = {s: tokenizer.token_to_id(s) for s in SPECIALS}
    hidden = heads * 128
    config = Qwen2VLConfig(
        VisionConfig(depth=2, embed_dim=80, num_heads=1, hidden_size=hidden),
        TextConfig(
            vocab_size=320,
            hidden_size=hidden,
            intermediate_size=256,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            rms_norm_eps=1e-6,
        ),
        tie_word_embeddings=tied,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_ids=(ids["<|im_end|>"],),
        dtype="float32",
    )
    save(random_weights(Qwen2VL(config), seed), folder)
    write_companions(folder, tokenizer, CHAT_TEMPLATE)
    return folder


def write_tiny_of(model: Qwen2VL, folder: Path, template: str, **pixels: object) -> Path:
    """Writes a model of a later generation with a byte tokenizer, a chat template, and settings of
    ``pixels`` beside those of Qwen2-VL; returns the folder. Its token ids must be ``TOKEN_IDS``.
    """
    save(model, folder)
    write_companions(folder, byte_tokenizer(), template, **pixels)
    return folder


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, and the special ones."""
    tokenizer = Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return tokenizer


def write_companions(folder: Path, tokenizer: Tokenizer, template: str, **pixels: object) -> None:
    """Tokenizer, template and settings beside a model."""
    ids: dict[str, Any] = {s: tokenizer.token_to_id(s) for s in SPECIALS}
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "padding_side": "left"}
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": template,
            **special,
        },
        "preprocessor_config.json": {
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            **pixels,
        },
        "generation_config.json": {
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "pad_token_id": ids["<|endoftext|>"],
            "do_sample": True,
            "top_k": 1,
            "temperature": 0.01,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


TOKEN_IDS = {
    field: byte_tokenizer().token_to_id(token)
    for field, token in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
        ("bos_token_id", "<|endoftext|>"),
    )
}
"""Of a configuration whose tokenizer is ``byte_tokenizer``."""
