"""Qwen2-VL: a vision tower and a language model joined at the embedding layer (paper section 2.1,
figure 2).

Visual features replace the embeddings of the placeholder tokens; from there on the decoder sees one
sequence. Module and parameter names are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.engine.interface import Attend, CacheShape, Media
from evalkit.errors import DataError
from evalkit.models.qwen2_vl.attention import CrossModal, Masked, causal
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen2_vl.decoder import Decoder
from evalkit.models.qwen2_vl.positions import POSITIONS
from evalkit.models.qwen2_vl.rope import Grid, Span, grid_tokens, spans
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.models.qwen2_vl.vision import VisionTransformer


class Qwen2VL(nn.Module):
    """The whole model, run as ``switches`` say; without them as its weights were trained.

    The later generations are subclasses, with another ``Config`` and other ``parts``.
    """

    Config: ClassVar[type[Qwen2VLConfig]] = Qwen2VLConfig

    def __init__(self, config: Qwen2VLConfig, switches: Switches | None = None) -> None:
        super().__init__()
        self.config = config
        self.switches = config.trained if switches is None else switches
        self.folder: Path | None = None  # of the checkpoint that it was loaded from
        self.kv_heads = config.text.num_key_value_heads  # this rank's, under tensor parallelism
        self.scheme = POSITIONS[self.switches.position]
        self.visual, self.model = self.parts()
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def parts(self) -> tuple[VisionTransformer, Decoder]:
        """The vision tower and the decoder, of ``self.config`` under ``self.switches``."""
        return VisionTransformer(self.config.vision, self.switches), Decoder(self.config.text)

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    @property
    def vocab_size(self) -> int:
        return self.config.text.vocab_size

    @property
    def cache_shape(self) -> CacheShape:
        """Shape of the keys and values that ``decode`` hands to its ``Attend``."""
        t = self.config.text
        key_dim = t.head_dim
        if (form := self.switches.cross_modal.form) != "off":
            key_dim = CrossModal.key_dim(form, t.head_dim)
        return CacheShape(t.num_hidden_layers, self.kv_heads, key_dim, t.head_dim)

    @property
    def activation_bytes(self) -> int:
        """Bytes that a visual token holds at its peak: four patches in the vision tower's MLP, or
        one token in the decoder's.

        Counted from the code: input, normed input, the wide layer three times (before, in and after
        its activation), pixels in fp32.
        """
        v, t, size = self.config.vision, self.config.text, self.dtype.itemsize
        patch = v.patch_features * 4 + size * (3 * v.inner + 6 * v.width)
        token = size * (4 * t.intermediate_size + 8 * t.hidden_size)
        return max(v.spatial_merge_size**2 * patch, token)

    @property
    def steps_apart(self) -> bool:
        """Whether the tower attends within frame pairs and knows no time."""
        return self.switches.vision_scope != "clip" and self.switches.vision_time != "on"

    def encode(self, patches: Tensor, media: Sequence[Media]) -> Sequence[Tensor]:
        """Features [visual tokens, hidden] of each of ``media``, whose patches [patches, 1176] lie
        end to end in ``patches``.
        """
        grids = [m.grid for m in media]
        return self.visual(patches, grids).split([grid_tokens(g) for g in grids])

    def is_visual(self, ids: Tensor) -> Tensor:
        """Where ids are placeholders of an image or a video, as booleans of the same shape."""
        return (ids == self.config.image_token_id) | (ids == self.config.video_token_id)

    def embed(self, ids: Tensor, features: Tensor | None = None) -> Tensor:
        """Embeddings [..., hidden] of ids [...]; the placeholders, of images and videos alike, are
        replaced, in order, by ``features`` [visual tokens, hidden].

        Raises DataError when there are not as many placeholders as features.
        """
        x = self.model.embed_tokens(ids)
        if features is None:
            return x
        where = self.is_visual(ids)
        if int(where.sum()) != len(features):
            raise DataError(
                f"{int(where.sum())} placeholder tokens for {len(features)} visual features"
            )
        if self.switches.vision_gate != 1.0:
            features = features * self.switches.vision_gate
        # what is added further up (DeepStack) lies beside the embedding, and is zero for text
        x = F.pad(x, (0, features.shape[-1] - x.shape[-1]))
        return x.masked_scatter(where.unsqueeze(-1), features.to(x.dtype))

    def position_ids(
        self, ids: Sequence[int], media: Sequence[Media] = (), following: int = 0
    ) -> Tensor:
        """Position ids [components, tokens + following] of one unpadded sequence and of
        ``following`` text tokens after it. Raises DataError when ids and media don't fit.
        """
        c = self.config
        parts = spans(
            ids,
            c.image_token_id,
            c.video_token_id,
            [m.grid for m in media if not m.is_video],
            [m.grid for m in media if m.is_video],
            [m.seconds_per_step for m in media if m.is_video],
        )
        return self.scheme.ids([*parts, Span(following)] if following else parts, self.switches)

    def rotary(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [..., head_dim] (or [..., kv_heads, head_dim]) of the decoder for position
        ids [components, ...].
        """
        return self.scheme.angles(position_ids, self.config.text, self.switches)

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, ids: Tensor) -> Tensor:
        """Hidden states [batch, tokens, hidden], after the final norm, for embeddings ``x`` of ids
        [batch, tokens]; cos and sin as ``rotary`` gives them.
        """
        cross = self.switches.cross_modal
        if cross.form != "off":
            attend = CrossModal(attend, self.is_visual(ids), cross.form, cross.scale)
        return self.model(x, cos, sin, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocab_size] of hidden states [..., hidden]."""
        return self.lm_head(hidden)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Sequence[Grid] = (),
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Sequence[Grid] = (),
        second_per_grid_ts: Sequence[float] = (),
        attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Logits [batch, tokens, vocab] of a batch padded on either side.

        input_ids and attention_mask (1 for real tokens) are [batch, tokens]; patches of all rows'
        images (videos) are packed in the order of the rows; ``second_per_grid_ts`` are the seconds
        between the temporal steps of each video. ``logits_to_keep=n`` keeps the last n positions.
        This is the plain way to call the model; batched generation lives in
        evalkit.engine.
        """
        batch, length = input_ids.shape
        real = (
            torch.ones_like(input_ids, dtype=torch.bool)
            if attention_mask is None
            else attention_mask.bool()
        )
        images = [Media(grid) for grid in image_grid_thw]
        videos = [
            Media(grid, is_video=True, seconds_per_step=seconds)
            for grid, seconds in zip_longest(video_grid_thw, second_per_grid_ts)
        ]
        dtype = self.position_ids([]).dtype
        positions = torch.zeros(
            self.scheme.components, batch, length, dtype=dtype, device=input_ids.device
        )
        for row in range(batch):
            ids = input_ids[row][real[row]].tolist()
            media = [
                *_take(images, ids.count(self.config.image_token_id)),
                *_take(videos, ids.count(self.config.video_token_id)),
            ]
            positions[:, row, real[row]] = self.position_ids(ids, media).to(input_ids.device)
        attend: Attend = causal
        if not bool(real.all()):
            order = torch.arange(length, device=input_ids.device)
            seen = (order[:, None] >= order) & real[:, None, None, :]
            attend = Masked(seen | torch.eye(length, dtype=torch.bool, device=input_ids.device))
        features = (
            None if pixels is None else self.visual(pixels, grids)
            for pixels, grids in (
                (pixel_values, image_grid_thw),
                (pixel_values_videos, video_grid_thw),
            )
        )
        x = self.embed(input_ids, self._in_order(input_ids, *features))
        x = self.decode(x, *self.rotary(positions), attend, input_ids)
        return self.logits(x[:, -logits_to_keep:])

    def _in_order(self, ids: Tensor, images: Tensor | None, videos: Tensor | None) -> Tensor | None:
        """Features of images and videos [visual tokens, hidden] in the order of their placeholders.

        Raises DataError when there are not as many placeholders of a kind as features.
        """
        if images is None or videos is None:
            return images if videos is None else videos
        is_video = ids[self.is_visual(ids)] == self.config.video_token_id
        if int(is_video.sum()) != len(videos) or int((~is_video).sum()) != len(images):
            raise DataError(
                f"{int((~is_video).sum())} image and {int(is_video.sum())} video placeholder "
                f"tokens for {len(images)} and {len(videos)} visual features"
            )
        features = images.new_empty(len(is_video), images.shape[-1])
        features[is_video], features[~is_video] = videos, images
        return features


def _take(waiting: list[Media], tokens: int) -> list[Media]:
    """Removes from the front of ``waiting`` those that cover ``tokens`` placeholder tokens."""
    taken: list[Media] = []
    while tokens > 0 and waiting:
        taken.append(waiting.pop(0))
        tokens -= grid_tokens(taken[-1].grid)
    return taken
