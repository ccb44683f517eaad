"""Random checkpoints of the families of `transformers`, of some thousand parameters each, as their
repositories are: config, weights, tokenizer, processor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIALS = ("<pad>", "<s>", "<unk>", "</s>", "<image>", "<video>")
PAD, BOS, UNK, EOS, IMAGE, VIDEO = range(len(SPECIALS))
ROWS = 320
"""Of every embedding: the bytes, the special tokens, and room for a family's own."""
TEXT = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
DECODER = {
    **TEXT,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
MEAN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
CHAT = (
    "{% for m in messages %}{{ m.role }}: {% for c in m.content %}"
    "{{ c.text if c.type == 'text' else MARK }}{% endfor %}\n{% endfor %}assistant:"
)


def tokenizer(*more: str, cls: str = "", **named: Any) -> Any:
    """A byte tokenizer that begins texts with ``<s>``; ``more`` are further special tokens."""
    vocabulary = {s: i for i, s in enumerate((*SPECIALS, *more))}
    vocabulary |= {c: len(vocabulary) + i for i, c in enumerate(ALPHABET)}
    raw = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    end = f" {cls}" if cls else ""
    raw.post_processor = processors.TemplateProcessing(
        f"<s> $A{end}", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>", "<video>", *more],
        padding_side="left",
        **named,
    )


def pil(module: str, name: str, **settings: Any) -> Any:
    """An image processor of `transformers` that needs no torchvision."""
    from importlib import import_module

    found = import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    return getattr(found, name)(**settings)


def randomise(model: torch.nn.Module, gain: float = 2.0) -> None:
    """Weights large enough that an answer leans on its image."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, gain / parameter[0].numel() ** 0.5)


def write(folder: Path, model: Any, *parts: Any, gain: float = 2.0) -> Path:
    """A model with random weights, and what lies beside them."""
    randomise(model, gain)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = EOS
        model.generation_config.pad_token_id = PAD
    model.save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    return folder


def clip_processor(**more: Any) -> Any:
    side = {"height": 28, "width": 28}
    size = {"size": {"shortest_edge": 28}, "crop_size": side}
    return pil("clip", "CLIPImageProcessorPil", **size, **MEAN, **more)


def llava(folder: Path) -> Path:
    config = tf.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": "llama", **DECODER},
        image_token_id=IMAGE,
        image_seq_length=4,
    )
    processor = tf.LlavaProcessor(
        clip_processor(),
        tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("MARK", "'<image>'"),
    )
    return write(folder, tf.LlavaForConditionalGeneration(config), processor)


def llava_next(folder: Path) -> Path:
    points = [[28, 56], [56, 28], [56, 56]]
    config = tf.LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": "llama", **DECODER},
        image_token_id=IMAGE,
        image_grid_pinpoints=points,
    )
    images = pil(
        "llava_next",
        "LlavaNextImageProcessorPil",
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=points,
        **MEAN,
    )
    processor = tf.LlavaNextProcessor(
        images,
        tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("MARK", "'<image>'"),
    )
    return write(folder, tf.LlavaNextForConditionalGeneration(config), processor)


def settings_of(folder: Path, cls: str, **settings: Any) -> None:
    """What a processor that can't be built without torchvision would save."""
    import json

    told = {"processor_class": cls, **settings}
    (folder / "processor_config.json").write_text(json.dumps(told))


def llava_onevision(folder: Path) -> Path:
    points = [[28, 28], [28, 56], [56, 28]]
    config = tf.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
        text_config={"model_type": "qwen2", **DECODER},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=points,
        vision_aspect_ratio="anyres_max_9",
    )
    images = pil(
        "llava_onevision",
        "LlavaOnevisionImageProcessorPil",
        size={"height": 28, "width": 28},
        image_grid_pinpoints=points,
        **MEAN,
    )
    model = tf.LlavaOnevisionForConditionalGeneration(config)
    write(folder, model, tokenizer(), images)
    settings_of(
        folder,
        "LlavaOnevisionProcessor",
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=CHAT.replace("MARK", "'<image>'"),
    )
    return folder


BLIP_SIZE = {"size": {"height": 28, "width": 28}, **MEAN}
QFORMER = {**TEXT, "encoder_hidden_size": 32, "max_position_embeddings": 2048}
OPT = {
    "model_type": "opt",
    "vocab_size": ROWS,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
T5 = {
    "model_type": "t5",
    "vocab_size": ROWS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": PAD,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
}


def blip2(folder: Path, text: dict[str, Any] = OPT) -> Path:
    config = tf.Blip2Config(
        vision_config={"initializer_range": 0.02, **VISION},
        qformer_config=QFORMER,
        text_config=text,
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    images = pil("blip", "BlipImageProcessorPil", **BLIP_SIZE)
    processor = tf.Blip2Processor(images, tokenizer(), num_query_tokens=4)
    return write(folder, tf.Blip2ForConditionalGeneration(config), processor)


def blip2_t5(folder: Path) -> Path:
    return blip2(folder, T5)


def instructblip(folder: Path, text: dict[str, Any] = OPT) -> Path:
    config = tf.InstructBlipConfig(
        vision_config={"initializer_range": 0.02, **VISION},
        qformer_config=QFORMER,
        text_config=text,
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    images = pil("blip", "BlipImageProcessorPil", **BLIP_SIZE)
    processor = tf.InstructBlipProcessor(images, tokenizer(), tokenizer(), num_query_tokens=4)
    return write(folder, tf.InstructBlipForConditionalGeneration(config), processor)


def idefics(folder: Path) -> Path:
    fake = "<fake_token_around_image>"
    config = tf.IdeficsConfig(
        **DECODER | {"num_key_value_heads": 4},
        additional_vocab_size=0,
        vision_config={
            "embed_dim": 32,
            "image_size": 28,
            "intermediate_size": 64,
            "patch_size": 14,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        perceiver_config={
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
        },
        use_resampler=True,
        cross_layer_interval=1,
        alpha_initializer="ones",
        alpha_type="float",
    )
    images = pil("idefics", "IdeficsImageProcessorPil", image_size=28, **MEAN)
    processor = tf.IdeficsProcessor(images, tokenizer(fake, "<end_of_utterance>"), image_size=28)
    return write(folder, tf.IdeficsForVisionText2Text(config), processor)


def idefics2(folder: Path) -> Path:
    config = tf.Idefics2Config(
        vision_config={**VISION, "image_size": 56},
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        text_config={"model_type": "mistral", **DECODER},
        image_token_id=IMAGE,
    )
    images = pil(
        "idefics2",
        "Idefics2ImageProcessorPil",
        size={"shortest_edge": 28, "longest_edge": 56},
        **MEAN,
    )
    processor = tf.Idefics2Processor(
        images,
        tokenizer("<fake_token_around_image>", "<end_of_utterance>"),
        image_seq_len=4,
        chat_template=CHAT.replace("MARK", "'<image>'"),
    )
    return write(folder, tf.Idefics2ForConditionalGeneration(config), processor)


IDEFICS3_TOKENS = (
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)),
)


IDEFICS3 = {
    "vision_config": {**VISION, "image_size": 56},
    "text_config": {"model_type": "llama", **DECODER},
    "image_token_id": IMAGE,
    "scale_factor": 2,
    "pad_token_id": PAD,
}
TILES = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}


def idefics3(folder: Path) -> Path:
    config = tf.Idefics3Config(**IDEFICS3)
    images = pil("idefics3", "Idefics3ImageProcessorPil", **TILES, **MEAN)
    processor = tf.Idefics3Processor(
        images,
        tokenizer(*IDEFICS3_TOKENS),
        image_seq_len=4,
        chat_template=CHAT.replace("MARK", "'<image>'"),
    )
    return write(folder, tf.Idefics3ForConditionalGeneration(config), processor)


def smolvlm(folder: Path) -> Path:
    config = tf.SmolVLMConfig(**IDEFICS3)
    images = pil("smolvlm", "SmolVLMImageProcessorPil", **TILES, **MEAN)
    write(folder, tf.SmolVLMForConditionalGeneration(config), tokenizer(*IDEFICS3_TOKENS), images)
    settings_of(
        folder,
        "SmolVLMProcessor",
        image_seq_len=4,
        chat_template=CHAT.replace("MARK", "'<image>'"),
    )
    return folder


def internvl(folder: Path) -> Path:
    marks = ("<img>", "</img>", "<IMG_CONTEXT>")
    context = len(SPECIALS) + 2
    config = tf.InternVLConfig(
        vision_config={**VISION, "image_size": (28, 28), "patch_size": (14, 14)},
        text_config={"model_type": "qwen2", **DECODER, "tie_word_embeddings": False},
        image_token_id=context,
        image_seq_length=1,
        downsample_ratio=0.5,
    )
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    images = pil(
        "got_ocr2",
        "GotOcr2ImageProcessorPil",
        size={"height": 28, "width": 28},
        crop_to_patches=True,
        min_patches=1,
        max_patches=4,
        **MEAN,
    )
    tokens = tokenizer(*marks, extra_special_tokens=named)
    write(folder, tf.InternVLForConditionalGeneration(config), tokens, images)
    settings_of(
        folder,
        "InternVLProcessor",
        image_seq_length=1,
        chat_template=CHAT.replace("MARK", "'<IMG_CONTEXT>'"),
    )
    return folder


def paligemma(folder: Path) -> Path:
    config = tf.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "projection_dim": 32,
            "vision_use_head": False,
            **VISION,
        },
        text_config={
            "model_type": "gemma",
            "head_dim": 8,
            **DECODER,
            "vocab_size": 1500,
            "num_image_tokens": 4,
        },
        projection_dim=32,
        hidden_size=32,
        image_token_index=IMAGE,
    )
    images = pil("siglip", "SiglipImageProcessorPil", size={"height": 28, "width": 28}, **MEAN)
    images.image_seq_length = 4
    processor = tf.PaliGemmaProcessor(images, tokenizer())
    return write(folder, tf.PaliGemmaForConditionalGeneration(config), processor)


QWEN_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_IDS = {
    "vision_start_token_id": len(SPECIALS) + 2,
    "vision_end_token_id": len(SPECIALS) + 3,
    "image_token_id": len(SPECIALS) + 4,
    "video_token_id": len(SPECIALS) + 5,
}
QWEN_CHAT = CHAT.replace("MARK", "'<|vision_start|><|image_pad|><|vision_end|>'")


def qwen2_5_vl(folder: Path) -> Path:
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
    config = tf.Qwen2_5_VLConfig(
        text_config={**DECODER, "rope_parameters": {**rope, "rope_theta": 1e4}},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        **QWEN_IDS,
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    images = pil("qwen2_vl", "Qwen2VLImageProcessorPil", size=size, **MEAN)
    tokens = tokenizer(*QWEN_TOKENS)
    write(folder, tf.Qwen2_5_VLForConditionalGeneration(config), tokens, images)
    settings_of(folder, "Qwen2_5_VLProcessor", chat_template=QWEN_CHAT)
    return folder


def qwen3_vl(folder: Path) -> Path:
    return _qwen3_vl(folder, tf.Qwen3VLConfig, tf.Qwen3VLForConditionalGeneration)


def qwen3_vl_moe(folder: Path) -> Path:
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 1,
    }
    model = tf.Qwen3VLMoeForConditionalGeneration
    return _qwen3_vl(folder, tf.Qwen3VLMoeConfig, model, gain=4.0, **experts)


def _qwen3_vl(folder: Path, kind: Any, model: Any, gain: float = 2.0, **text: Any) -> Path:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    rope |= {"rope_theta": 1e4}
    config = kind(
        text_config={**DECODER, "head_dim": 8, "rope_parameters": rope, **text},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **QWEN_IDS,
    )
    size = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    images = pil("qwen2_vl", "Qwen2VLImageProcessorPil", size=size, patch_size=16, **MEAN)
    tokens = tokenizer(*QWEN_TOKENS)
    write(folder, model(config), tokens, images, gain=gain)
    settings_of(folder, "Qwen3VLProcessor", chat_template=QWEN_CHAT)
    return folder


def built(make: Callable[[Path], Path], folder: Path) -> str:
    """A family's checkpoint, always the same one."""
    torch.manual_seed(0)
    return str(make(folder))


VISION_LANGUAGE: dict[str, Callable[[Path], Path]] = {
    f.__name__: f
    for f in (
        llava,
        llava_next,
        llava_onevision,
        blip2,
        blip2_t5,
        instructblip,
        idefics,
        idefics2,
        idefics3,
        smolvlm,
        internvl,
        paligemma,
        qwen2_5_vl,
        qwen3_vl,
        qwen3_vl_moe,
    )
}
