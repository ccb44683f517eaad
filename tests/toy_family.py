"""A second model family, about as small as one can be: a token is a byte, an image or a frame is
one token that holds its mean colour, and the decoder is two layers of attention.

It registers itself on import. Nothing of evalkit knows it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evalkit.engine.interface import CacheShape, Media
from evalkit.models.limits import Limits
from evalkit.models.registry import register
from evalkit.models.switch import SwitchSet, switch
from evalkit.models.weights import read_config, tensors, weight_files

IMAGE, END = 256, 257
PLACEHOLDER = "\x1a"
box_space = None
blind = {"colour": "off"}
register("toy", __name__)


@dataclass(frozen=True)
class Switches(SwitchSet):
    colour: str = switch(
        "on", choices=("on", "off"), help="whether it sees colours", read_in="toy_family.encode"
    )


@dataclass(frozen=True)
class Config:
    model_type: ClassVar[str] = "toy"
    hidden: int = 16
    layers: int = 2
    max_tokens: int = 4096
    dtype: str = "float32"
    trained: ClassVar[Switches] = Switches()
    trained_with: ClassVar[dict[str, Any]] = {}

    @classmethod
    def load(cls, folder: Path) -> Config:
        raw = read_config(folder)
        return cls(**{f.name: raw[f.name] for f in fields(cls) if f.name in raw})


class Chat:
    visual_ids, stop_ids, generation = frozenset({IMAGE}), frozenset({END}), "greedy"

    def __init__(self, folder: Path, config: Config, switches: Switches) -> None: ...

    def render(self, messages: Any) -> str:
        parts = (p for m in messages for p in m["content"])
        return "".join(p["text"] if p["type"] == "text" else PLACEHOLDER for p in parts)

    def encode(self, text: str, media: Any = ()) -> list[int]:
        return [IMAGE if b == ord(PLACEHOLDER) else b for b in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")


class Processor:
    limits = Limits()
    load = classmethod(lambda cls, folder, switches: cls())

    def frames(self, total: int, video_fps: float, task: Limits) -> list[int]:
        return [total // 2]

    def image_patches(self, image: Any, task: Limits) -> tuple[Tensor, Media]:
        return self.video_patches(np.asarray(image.convert("RGB")))

    def resize_frame(self, frame: Any, total: int, task: Limits) -> Any:
        return frame

    def video_patches(self, frames: Any, sampling: Any = None) -> tuple[Tensor, Media]:
        mean = torch.from_numpy(frames.reshape(-1, 3).mean(0, keepdims=True))  # [1, 3]
        return mean.to(torch.uint8), Media((1, 1, 1))

    def normalise(self, patches: Tensor) -> Tensor:
        return patches.float() / 255


class Model(nn.Module):
    vocab_size, activation_bytes, heads = 258, 4096, 2
    steps_apart = True
    device = property(lambda self: self.eye.weight.device)
    dtype = property(lambda self: self.eye.weight.dtype)

    def __init__(self, config: Config, switches: Switches | None = None) -> None:
        super().__init__()
        self.config, self.switches, size = config, switches or config.trained, config.hidden
        self.embedding, self.eye = nn.Embedding(self.vocab_size, size), nn.Linear(3, size)
        self.qkv = nn.ModuleList(nn.Linear(size, 3 * size) for _ in range(config.layers))
        head_dim = size // self.heads
        self.cache_shape = CacheShape(config.layers, self.heads, head_dim, head_dim)

    def encode(self, patches: Tensor, media: Sequence[Media]) -> Sequence[Tensor]:
        colours = patches.to(self.dtype) * (self.switches.colour == "on")
        return self.eye(colours).split([1] * len(media))

    def embed(self, ids: Tensor, features: Tensor | None = None) -> Tensor:
        x = self.embedding(ids)
        is_image = (ids == IMAGE).unsqueeze(-1)
        return x if features is None else x.masked_scatter(is_image, features)

    def position_ids(self, ids: Any, media: Any, following: int = 0) -> Tensor:
        return torch.arange(len(ids) + following)[None]

    def rotary(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        rates = 0.5 ** torch.arange(self.config.hidden // 2, device=position_ids.device)
        phase = (position_ids[0].unsqueeze(-1) * rates).to(self.dtype)
        return phase.cos(), phase.sin()

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Any, ids: Tensor) -> Tensor:
        x = x + torch.cat((cos, sin), -1)  # its positions are added, not turned
        for layer, qkv in enumerate(self.qkv):
            q, k, v = qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
            x = x + attend(layer, q, k, v).flatten(-2)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.embedding.weight.T


def load(folder: Path, dtype: Any = None, device: str = "cpu", switches: Any = None) -> Model:
    model = Model(Config.load(folder), switches)
    model.load_state_dict(dict(tensors(weight_files(folder))))
    return model.to(device, getattr(torch, dtype or model.config.dtype)).requires_grad_(False)


def compile_parts(model: Model) -> None: ...


def write(folder: Path, seed: int = 0) -> Path:
    """A checkpoint with random weights; returns the folder."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(Model(Config()).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "toy", **asdict(Config())}))
    return folder
