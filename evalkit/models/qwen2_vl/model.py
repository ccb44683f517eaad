"""Qwen2-VL: a vision tower and a language model joined at the embedding layer (paper section 2.1,
figure 2).

Visual features replace the embeddings of the placeholder tokens; from there on the decoder sees one
sequence. Module and parameter names are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evalkit.errors import DataError
from evalkit.models.qwen2_vl.config import Qwen2VLConfig
from evalkit.models.qwen2_vl.decoder import Attend, CrossModal, Decoder, Masked, causal
from evalkit.models.qwen2_vl.positions import POSITIONS
from evalkit.models.qwen2_vl.rope import Grid, Run, runs
from evalkit.models.qwen2_vl.switches import Ablation, parse_cross_modal
from evalkit.models.qwen2_vl.vision import VisionTransformer


class Qwen2VL(nn.Module):
    """The whole model. ``ablation`` is resolved against what the weights were trained with; its
    default is the release.
    """

    def __init__(self, config: Qwen2VLConfig, ablation: Ablation = Ablation()) -> None:
        super().__init__()
        self.config = config
        self.ablation = ablation.resolve(config.trained_with)
        self.scheme = POSITIONS[str(self.ablation.position)]
        self.gate = 1.0 if self.ablation.vision_gate is None else float(self.ablation.vision_gate)
        self.cross_modal, self.cross_scale = parse_cross_modal(str(self.ablation.cross_modal))
        self.visual = VisionTransformer(config.vision, self.ablation)
        self.model = Decoder(config.text)
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def positions(
        self,
        input_ids: Sequence[int],
        images: Sequence[Grid] = (),
        videos: Sequence[Grid] = (),
        following: int = 0,
    ) -> Tensor:
        """Position ids [components, tokens + following] of one unpadded sequence and of as many
        text tokens after it.
        """
        c = self.config
        parts = runs(
            input_ids,
            c.image_token_id,
            c.video_token_id,
            images,
            videos,
            c.vision.spatial_merge_size,
        )
        return self.scheme.ids([*parts, Run(following)] if following else parts, self.ablation)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [..., head_dim] (or [..., kv_heads, head_dim]) of the decoder for position
        ids [components, ...].
        """
        return self.scheme.angles(positions, self.config.text, self.ablation)

    @property
    def key_dim(self) -> int:
        """Width of the keys that an ``Attend`` of ``attending`` meets."""
        dim = self.config.text.head_dim
        return dim if self.cross_modal == "off" else CrossModal.key_dim(self.cross_modal, dim)

    def attending(self, attend: Attend, input_ids: Tensor) -> Attend:
        """``attend``, under the cross_modal switch for ids [batch, tokens]; itself where the switch
        is off.
        """
        if self.cross_modal == "off":
            return attend
        visual = (input_ids == self.config.image_token_id) | (
            input_ids == self.config.video_token_id
        )
        return CrossModal(attend, visual, self.cross_modal, self.cross_scale)

    def embed(
        self,
        input_ids: Tensor,
        image_features: Tensor | None = None,
        video_features: Tensor | None = None,
    ) -> Tensor:
        """Embeddings [..., hidden] of ids [...], the placeholders replaced, in order, by features
        [visual tokens, hidden].

        Raises DataError when the number of placeholders is not the number of features.
        """
        x = self.model.embed_tokens(input_ids)
        pairs = (
            (self.config.image_token_id, image_features),
            (self.config.video_token_id, video_features),
        )
        for token, features in pairs:
            if features is None:
                continue
            where = input_ids == token
            if int(where.sum()) != len(features):
                raise DataError(
                    f"{int(where.sum())} placeholder tokens for {len(features)} visual features"
                )
            if self.gate != 1.0:
                features = features * self.gate
            x = x.masked_scatter(where.unsqueeze(-1), features.to(x.dtype))
        return x

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Sequence[Grid] = (),
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Sequence[Grid] = (),
        attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Logits [batch, tokens, vocab] of a batch padded on either side.

        input_ids and attention_mask (1 for real tokens) are [batch, tokens]; patches of all rows'
        images (videos) are packed in the order of the rows. ``logits_to_keep=n`` keeps the last n
        positions. This is the plain way to call the model; batched generation lives in
        evalkit.engine.
        """
        batch, length = input_ids.shape
        real = (
            torch.ones_like(input_ids, dtype=torch.bool)
            if attention_mask is None
            else attention_mask.bool()
        )
        merge = self.config.vision.spatial_merge_size
        image_grids, video_grids = list(image_grid_thw), list(video_grid_thw)
        dtype = self.positions([]).dtype
        positions = torch.zeros(
            self.scheme.components, batch, length, dtype=dtype, device=input_ids.device
        )
        for row in range(batch):
            ids = input_ids[row][real[row]].tolist()
            images = _take(image_grids, ids.count(self.config.image_token_id), merge)
            videos = _take(video_grids, ids.count(self.config.video_token_id), merge)
            positions[:, row, real[row]] = self.positions(ids, images, videos).to(input_ids.device)
        features = None if pixel_values is None else self.visual(pixel_values, image_grid_thw)
        video_features = (
            None
            if pixel_values_videos is None
            else self.visual(pixel_values_videos, video_grid_thw)
        )
        attend: Attend = causal
        if not bool(real.all()):
            order = torch.arange(length, device=input_ids.device)
            seen = (order[:, None] >= order) & real[:, None, None, :]
            attend = Masked(seen | torch.eye(length, dtype=torch.bool, device=input_ids.device))
        x = self.embed(input_ids, features, video_features)
        x = self.model(x, *self.rotary(positions), self.attending(attend, input_ids))
        return self.lm_head(x[:, -logits_to_keep:])


def _take(grids: list[Grid], tokens: int, merge: int) -> list[Grid]:
    """Removes from the front of ``grids`` those that cover ``tokens`` placeholder tokens."""
    taken: list[Grid] = []
    while tokens > 0 and grids:
        t, h, w = grids.pop(0)
        tokens -= t * h * w // merge**2
        taken.append((t, h, w))
    return taken
