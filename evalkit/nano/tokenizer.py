"""The nano tokenizer: one token for each word of the prompts, one for each character of everything
else.

A byte-level BPE of the released kind (NFC, the released split pattern, the released special tokens
in their order). Whole prompt words are in the vocabulary without merges that would build them, so
that they match only as whole words (``ignore_merges``); the merges that exist join the bytes of one
character.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from evalkit.models.qwen2_vl.chat import CHAT_TEMPLATE
from evalkit.nano.clips import DIRECTIONS, NUMBERS
from evalkit.nano.documents import COLUMNS, KEYS, ROWS
from evalkit.nano.grounding import SHAPES
from evalkit.nano.wordlists import WORDS
from evalkit.probes.scene import COLOURS
from evalkit.protocols import LETTER_ANSWER, SHORT_ANSWER

SPECIALS = tuple(
    f"<|{name}|>"
    for name in (
        "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start "
        "quad_end vision_start vision_end vision_pad image_pad video_pad"
    ).split()
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROMPTS = (
    "system\nuser\nassistant\nYou are a helpful assistant.\n",
    "What is the text? What is line 1? What is the sum of and?",
    'Detect the bounding box of "the".',
    "the object large small left right top bottom that is to the left right of above below",
    "Which way does the move? How many objects are there? Which object appears first? Which "
    "object disappears?",
    "A. B. C. D. E.",
)
PHRASES = (SHORT_ANSWER, LETTER_ANSWER)
"""What the tasks put behind every question: a token each, which makes training a third faster.
Other wordings are read word by word.
"""

UNTRAINED = ("hi",)
"""Languages that came after the shipped weights, whose vocabulary is as it was: nano has never seen
them, and reads and writes their letters byte by byte.
"""


def build() -> Tokenizer:
    """The tokenizer, the same on every call."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    byte = {ord(c): c for c in pre_tokenizers.ByteLevel.alphabet()}
    vocabulary = {c: i for i, c in enumerate(sorted(byte.values()))}
    merges: list[tuple[str, str]] = []
    letters = sorted(
        set("".join(w for lang, words in WORDS.items() if lang not in UNTRAINED for w in words))
        | {chr(c) for c in range(0xC0, 0x180)}
    )
    for letter in letters:
        pieces = split.pre_tokenize_str(letter)[0][0]
        for n in range(2, len(pieces) + 1):
            if pieces[:n] not in vocabulary:
                vocabulary[pieces[:n]] = len(vocabulary)
                merges.append((pieces[: n - 1], pieces[n - 1]))
    names = (*COLOURS, *SHAPES, *DIRECTIONS, *NUMBERS)
    spaced = " " + " ".join((*KEYS, *ROWS, *COLUMNS, *names))
    options = "\n".join(
        f"{letter}. {name}\n" for letter in "ABCDE" for name in ("the", *DIRECTIONS, *NUMBERS)
    )
    marks = '),( ), ( , ?\n ".'
    for text in (*PROMPTS, *PHRASES, spaced, options, marks, "(1,1),(1,1)", '"the "the'):
        for piece, _ in split.pre_tokenize_str(text):
            vocabulary.setdefault(piece, len(vocabulary))
    for text in DIRECTIONS:
        for piece, _ in split.pre_tokenize_str(text):
            vocabulary.setdefault(piece, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in PHRASES])
    return tokenizer


def write(folder: Path) -> Tokenizer:
    """Writes the tokenizer's, processor's and generation files of a released checkpoint."""
    tokenizer = build()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "padding_side": "left",
            "model_max_length": 32768,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
            "min_pixels": 3136,
            "max_pixels": 2_007_040,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "generation_config.json": {
            "eos_token_id": [end, pad],
            "pad_token_id": pad,
            "do_sample": False,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return tokenizer
