"""Classifiers that `transformers` has not: AlexNet (Krizhevsky et al., 2012; the one-tower form of
Krizhevsky, 2014), VGG (Simonyan & Zisserman, 2015) and GoogLeNet (Szegedy et al., 2015, with batch
normalisation).

Modules have torchvision's parameter names, so that its weights load as they are. A checkpoint is a
folder with ``model.safetensors`` and a ``config.json`` of ``model_type`` (``alexnet``, ``vgg16``,
``vgg16_bn``, ``googlenet``, ...) and ``id2label``. Pictures: the shorter side to 256, the central
224 x 224, normalised by ImageNet's mean and deviation (torchvision's reference transforms).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from torch import Tensor, nn

from evalkit.errors import CheckpointError
from evalkit.models.weights import tensors, weight_files

VGG = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions before each of the five poolings."""
KINDS = ("alexnet", *VGG, *(f"{name}_bn" for name in VGG), "googlenet")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Plain(nn.Module):
    """Features, an average over ``grid`` x ``grid`` places, and a classifier: AlexNet and VGG."""

    def __init__(self, features: nn.Module, grid: int, classifier: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier
        self.avgpool = nn.AdaptiveAvgPool2d(grid)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [pictures, classes] of pixels [pictures, 3, height, width]."""
        return self.classifier(self.avgpool(self.features(pixels)).flatten(1))


def alexnet(classes: int) -> Plain:
    def layer(
        inputs: int, outputs: int, size: int, padding: int, stride: int = 1
    ) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, size, stride, padding), nn.ReLU()]

    pool = nn.MaxPool2d(3, 2)
    features = nn.Sequential(
        *layer(3, 64, 11, 2, stride=4),
        pool,
        *layer(64, 192, 5, 2),
        pool,
        *layer(192, 384, 3, 1),
        *layer(384, 256, 3, 1),
        *layer(256, 256, 3, 1),
        pool,
    )
    classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(256 * 36, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, classes),
    )
    return Plain(features, 6, classifier)


def vgg(name: str, classes: int) -> Plain:
    normed = name.endswith("_bn")
    layers: list[nn.Module] = []
    inputs = 3
    for count, width in zip(VGG[name.removesuffix("_bn")], (64, 128, 256, 512, 512)):
        for _ in range(count):
            layers.append(nn.Conv2d(inputs, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if normed else []
            layers.append(nn.ReLU())
            inputs = width
        layers.append(nn.MaxPool2d(2))
    classifier = nn.Sequential(
        nn.Linear(512 * 49, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, classes),
    )
    return Plain(nn.Sequential(*layers), 7, classifier)


class Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side. torchvision's third has 3 x 3 where the paper has 5 x 5."""

    def __init__(
        self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.branch1 = Conv(inputs, one, 1)
        self.branch2 = nn.Sequential(Conv(inputs, three[0], 1), Conv(*three, 3, padding=1))
        self.branch3 = nn.Sequential(Conv(inputs, five[0], 1), Conv(*five, 3, padding=1))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1, ceil_mode=True), Conv(inputs, pooled, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """Without its auxiliary classifiers, which only training uses. ``transform_input`` undoes
    ImageNet's normalisation for weights that were trained on pixels from -1 to 1, torchvision's
    among them.
    """

    def __init__(self, classes: int, transform_input: bool = True) -> None:
        super().__init__()
        self.transform_input = transform_input
        self.conv1 = Conv(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = Conv(64, 64, 1)
        self.conv3 = Conv(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.fc = nn.Linear(1024, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [pictures, classes] of pixels [pictures, 3, height, width]."""
        if self.transform_input:
            mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (MEAN, STD))
            pixels = (pixels * std + mean - 0.5) / 0.5
        x = self.maxpool1(self.conv1(pixels))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.maxpool4(self.inception4e(self.inception4d(x)))
        x = self.inception5b(self.inception5a(x))
        return self.fc(x.mean((2, 3)))


def build(kind: str, classes: int, transform_input: bool = True) -> nn.Module:
    """A network of random weights; ``kind`` is one of ``KINDS``."""
    if kind == "alexnet":
        return alexnet(classes)
    if kind == "googlenet":
        return GoogLeNet(classes, transform_input)
    return vgg(kind, classes)


def load(folder: Path, config: dict[str, Any]) -> nn.Module:
    """The network of a checkpoint, in evaluation mode. Raises CheckpointError where its tensors are
    not those of the network; those of auxiliary classifiers are left out.
    """
    kind, labels = config["model_type"], config.get("id2label")
    if not isinstance(labels, dict) or not labels:
        raise CheckpointError(f"{folder / 'config.json'}: no id2label")
    with torch.device("meta"):
        network = build(kind, len(labels), bool(config.get("transform_input", True)))
    wanted = network.state_dict()
    stored = {n: t for n, t in tensors(weight_files(folder)) if not n.startswith("aux")}
    counters = {n for n in wanted if n.endswith("num_batches_tracked")} - stored.keys()
    stored |= {n: torch.zeros((), dtype=torch.long) for n in counters}
    odd = sorted(
        {n for n in wanted if n not in stored or stored[n].shape != wanted[n].shape}
        | (stored.keys() - wanted.keys())
    )
    if odd:
        raise CheckpointError(
            f"{folder}: its tensors are not those of {kind} for {len(labels)} classes: "
            f"{', '.join(odd[:4])}"
        )
    network.load_state_dict(stored, assign=True)
    return network.eval()


def prepare(picture: PILImage.Image) -> Tensor:
    """Pixels [3, 224, 224] of a picture."""
    import numpy as np

    scale = 256 / min(picture.size)
    width, height = (max(256, int(side * scale)) for side in picture.size)
    resized = picture.resize((width, height), PILImage.Resampling.BILINEAR)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    cropped = resized.crop((left, top, left + 224, top + 224))
    pixels = torch.from_numpy(np.asarray(cropped, dtype=np.float32) / 255).permute(2, 0, 1)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
