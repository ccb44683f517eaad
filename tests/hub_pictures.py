"""Random checkpoints of models of pictures: contrastive ones, classifiers and detectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from safetensors.torch import save_file

from evalkit.pretrained import convnets
from tests.hub_models import (
    BLIP_SIZE,
    BOS,
    EOS,
    IMAGE,
    MEAN,
    QFORMER,
    TEXT,
    VISION,
    clip_processor,
    pil,
    randomise,
    tokenizer,
    write,
)

LABELS = {0: "circle", 1: "square, box", 2: "star", 3: "carton, box", 4: "hen"}


def clip(folder: Path) -> Path:
    ends = {"max_position_embeddings": 24, "bos_token_id": BOS, "eos_token_id": EOS}
    config = tf.CLIPConfig(text_config={**TEXT, **ends}, vision_config=VISION, projection_dim=16)
    return write(folder, tf.CLIPModel(config), tokenizer(cls="</s>"), clip_processor())


def siglip(folder: Path) -> Path:
    config = tf.SiglipConfig(
        text_config={**TEXT, "max_position_embeddings": 64}, vision_config=VISION
    )
    model = tf.SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-1.0)
    images = pil("siglip", "SiglipImageProcessorPil", **BLIP_SIZE)
    return write(folder, model, tokenizer(cls="</s>"), images)


CONVOLUTIONS = {
    "image_size": 32,
    "depth_coefficient": 1.0,
    "kernel_sizes": [3, 3, 5],
    "in_channels": [32, 16, 24],
    "out_channels": [16, 24, 32],
    "strides": [1, 1, 2],
    "num_block_repeats": [1, 1, 1],
    "expand_ratios": [1, 6, 6],
}


def align(folder: Path) -> Path:
    config = tf.AlignConfig(
        text_config=TEXT,
        vision_config={**CONVOLUTIONS, "width_coefficient": 2.0, "hidden_dim": 64},
        projection_dim=64,
    )
    side = {"height": 32, "width": 32}
    images = pil("efficientnet", "EfficientNetImageProcessorPil", size=side, **MEAN)
    return write(folder, tf.AlignModel(config), tokenizer(cls="</s>"), images, gain=4.0)


def blip2_retrieval(folder: Path, image: int | None = IMAGE) -> Path:
    config = tf.Blip2Config(
        vision_config={"initializer_range": 0.02, **VISION},
        qformer_config={**QFORMER, "use_qformer_text_input": True},
        num_query_tokens=4,
        image_text_hidden_size=16,
        image_token_index=image,
    )
    images = pil("blip", "BlipImageProcessorPil", **BLIP_SIZE)
    return write(folder, tf.Blip2ForImageTextRetrieval(config), tokenizer(cls="</s>"), images)


def resnet(folder: Path) -> Path:
    config = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=LABELS
    )
    images = pil("convnext", "ConvNextImageProcessorPil", size={"shortest_edge": 32}, **MEAN)
    return write(folder, tf.ResNetForImageClassification(config), images)


def vit(folder: Path) -> Path:
    config = tf.ViTConfig(**VISION, id2label=LABELS)
    images = pil("vit", "ViTImageProcessorPil", **BLIP_SIZE)
    return write(folder, tf.ViTForImageClassification(config), images)


def efficientnet(folder: Path) -> Path:
    config = tf.EfficientNetConfig(
        **CONVOLUTIONS, width_coefficient=1.0, hidden_dim=1280, id2label=LABELS
    )
    side = {"height": 32, "width": 32}
    images = pil("efficientnet", "EfficientNetImageProcessorPil", size=side, **MEAN)
    model = tf.EfficientNetForImageClassification(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # transformers draws them near 0: no signal
            torch.nn.init.ones_(module.weight)
    return write(folder, model, images)


def convnet(kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        network = convnets.build(kind, len(LABELS))
        randomise(network)
        save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        config = {"model_type": kind, "id2label": {str(i): label for i, label in LABELS.items()}}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


CONTRASTIVE = {f.__name__: f for f in (clip, siglip, align, blip2_retrieval)}
CLASSIFIERS: dict[str, Any] = {f.__name__: f for f in (resnet, vit, efficientnet)} | {
    kind: convnet(kind) for kind in ("alexnet", "vgg11_bn", "googlenet")
}

CLASS_NAMES = {0: "N/A", 1: "person", 2: "dining table", 3: "bus"}


def resnet_backbone(*stages: str, kind: str = "resnet") -> dict[str, Any]:
    widths = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4}
    return {"model_type": kind, "layer_type": "basic", "out_features": list(stages), **widths}


def detr(folder: Path) -> Path:
    config = tf.DetrConfig(
        backbone_config=resnet_backbone("stage4"),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
        id2label=CLASS_NAMES,
    )
    size = {"shortest_edge": 64, "longest_edge": 96}
    images = pil("detr", "DetrImageProcessorPil", size=size, **MEAN)
    return write(folder, tf.DetrForObjectDetection(config), images)


def rt_detr(folder: Path) -> Path:
    config = tf.RTDetrConfig(
        backbone_config=resnet_backbone("stage2", "stage3", "stage4", kind="rt_detr_resnet"),
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 24, 32],
        encoder_ffn_dim=64,
        encoder_attention_heads=4,
        d_model=32,
        decoder_in_channels=[32] * 3,
        decoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_queries=10,
        id2label=CLASS_NAMES,
    )
    size = {"height": 64, "width": 64}
    images = pil("rt_detr", "RTDetrImageProcessorPil", size=size)
    return write(folder, tf.RTDetrForObjectDetection(config), images)


def grounding_dino(folder: Path) -> Path:
    config = tf.GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "window_size": 7,
            "embed_dim": 8,
            "depths": [1] * 4,
            "num_heads": [1] * 4,
            "image_size": 224,
            "out_features": ["stage2", "stage3", "stage4"],
        },
        text_config={"model_type": "bert", **TEXT, "num_attention_heads": 2},
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=10,
        max_text_len=64,
        disable_custom_kernels=True,
    )
    size = {"shortest_edge": 64, "longest_edge": 96}
    images = pil("grounding_dino", "GroundingDinoImageProcessorPil", size=size, **MEAN)
    model = tf.GroundingDinoForObjectDetection(config)
    return write(folder, model, tokenizer(cls="</s>"), images)


def owlv2(folder: Path) -> Path:
    config = tf.Owlv2Config(
        text_config={**TEXT, "max_position_embeddings": 16}, vision_config=VISION, projection_dim=32
    )
    size = {"height": 28, "width": 28}
    images = pil("owlv2", "Owlv2ImageProcessorPil", size=size, **MEAN)
    return write(folder, tf.Owlv2ForObjectDetection(config), tokenizer(cls="</s>"), images)


DETECTORS = {f.__name__: f for f in (detr, rt_detr, grounding_dino, owlv2)}
