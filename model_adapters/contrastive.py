"""Models that score pictures against texts, and so rank the choices of a question: CLIP (Radford et
al., 2021), SigLIP (Zhai et al., 2023), ALIGN (Jia et al., 2021) and BLIP-2's matching (Li et al.,
2023).

A choice becomes a text by a template; several templates are an ensemble, the mean of their
normalised embeddings, normalised again (CLIP's protocol for ImageNet). The text of a question is
not read unless a template asks for it: such models match captions, they answer no questions. Of
several pictures or frames the mean of the normalised embeddings is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, normalize

from evalkit.adapter import ModelAdapter, answer_each
from evalkit.errors import DataError, UsageError
from evalkit.models.device import checked_device, chosen_dtype
from evalkit.pretrained.checkpoint import Checkpoint, dtype_of, on_device
from evalkit.pretrained.labels import bare
from evalkit.pretrained.pictures import FRAMES, pictures_of
from evalkit.types import Completion, Request, Text, TokenCounts

TEMPLATES = {
    "clip": "a photo of a {choice}.",
    "align": "a photo of a {choice}.",
    "siglip": "This is a photo of {choice}.",
    "siglip2": "This is a photo of {choice}.",
    "blip-2": "{choice}",
}
"""Of the families that are known, by ``model_type``: those of the papers and model cards."""
PADDED = {"siglip": 64, "siglip2": 64, "align": 64}
"""Families whose texts are padded to a length, as in training."""
HEADS = ("itc", "itm")


class ContrastiveAdapter(ModelAdapter):
    """A model that ranks choices by their likeness to a picture.

    ``template`` has ``{choice}`` and may have ``{question}``; several are separated by ``|``.
    ``head`` is BLIP-2's: ``itc`` compares embeddings, ``itm`` reads picture and text together. Of a
    video ``frames`` are shown. Texts longer than a model takes are cut, and counted in the results'
    ``stats``. Raises UsageError for a model of another kind.
    """

    name = "contrastive"

    def __init__(
        self,
        model: str,
        *,
        template: str | None = None,
        head: str = "itc",
        frames: int = FRAMES,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        self.checkpoint = Checkpoint.find(model)
        self.config = self.checkpoint.config()
        self.kind = self.config.model_type
        if self.kind not in TEMPLATES:
            raise UsageError(
                f"{model}: model_type {self.kind!r}; adapter {self.name!r} runs "
                f"{', '.join(TEMPLATES)}"
            )
        if head not in HEADS or (head != "itc" and self.kind != "blip-2"):
            raise UsageError(f"head={head!r}: itc, or for BLIP-2 itm")
        if not (type(frames) is int and frames > 0):
            raise UsageError(f"frames={frames!r}: expected a whole number above 0")
        self.templates = tuple((template or TEMPLATES[self.kind]).split("|"))
        if bad := [t for t in self.templates if "{choice}" not in t]:
            raise UsageError(f"template={bad[0]!r}: it has no place for the {{choice}}")
        self.head, self.frames = head, frames
        self.device = checked_device(device)
        self.dtype = chosen_dtype(dtype, dtype_of(self.config), self.device)
        self.cut = 0
        self.texts = lru_cache(maxsize=8)(self._texts)

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        return {
            "adapter": self.name,
            **self.checkpoint.identity,
            "dtype": self.dtype,
            "templates": list(self.templates),
            "head": self.head,
            "frames": self.frames,
            "image_processor": type(self.checkpoint.image_processor).__name__,
        }

    @property
    def details(self) -> Mapping[str, Any]:
        asked = any("{question}" in t for t in self.templates)
        return {
            "device": self.device,
            "model_type": self.kind,
            "question": "in the template" if asked else "not read",
        }

    @property
    def stats(self) -> Mapping[str, Any]:
        return {"texts_cut": self.cut}

    @cached_property
    def model(self) -> Any:
        from transformers import AutoModelForZeroShotImageClassification

        auto = AutoModelForZeroShotImageClassification
        return self.checkpoint.model(auto, self.dtype, self.device)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """The likeliest choice, of questions that have choices; others are errors."""
        return self.rank(requests)

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.cut = 0
        return answer_each(requests, self._answer)

    @torch.inference_mode()
    def _answer(self, request: Request) -> Completion:
        if not request.choices:
            raise DataError(f"adapter {self.name!r} ranks choices, and this question has none")
        shown = pictures_of(request, self.frames)
        said = [p.text for m in request.messages for p in m.content if isinstance(p, Text)]
        captions = tuple(
            tuple(
                template.format(choice=bare(choice), question="\n".join(said))
                for choice in request.choices
            )
            for template in self.templates
        )
        process = self.checkpoint.image_processor
        pixels = on_device(process(images=shown, return_tensors="pt"), self.model)
        scores = (self._blip2 if self.kind == "blip-2" else self._embedded)(pixels, captions)
        values = tuple(scores.float().cpu().tolist())
        best = max(range(len(values)), key=values.__getitem__)
        return Completion(request.id, request.choices[best], "rank", TokenCounts(), logprobs=values)

    def _embedded(self, pixels: Mapping[str, Tensor], captions: Sequence[Sequence[str]]) -> Tensor:
        """Log-probability [choices] from one embedding of the pictures and one of each choice."""
        model = self.model
        features = _pooled(model.get_image_features(**pixels))
        picture = normalize(normalize(features, dim=-1).mean(0), dim=-1)
        likeness = self.texts(tuple(captions)) @ picture
        if self.kind == "align":
            return log_softmax(likeness / model.temperature, dim=0)
        scaled = likeness * model.logit_scale.exp()
        if self.kind.startswith("siglip"):
            return logsigmoid(scaled + model.logit_bias)
        return log_softmax(scaled, dim=0)

    def _texts(self, captions: tuple[tuple[str, ...], ...]) -> Tensor:
        """Embeddings [choices, width] of the choices, over all templates."""
        each = [
            normalize(_pooled(self.model.get_text_features(**self._tokens(texts))), dim=-1)
            for texts in captions
        ]
        return normalize(torch.stack(each).mean(0), dim=-1)

    def _blip2(self, pixels: Mapping[str, Tensor], captions: Sequence[Sequence[str]]) -> Tensor:
        """Log-probability [choices], of each text beside the others (itc, whose likeness has no
        temperature) or that it matches (itm).
        """
        each = [
            self._matched(pixels["pixel_values"][i : i + 1], self._tokens(texts))
            for texts in captions
            for i in range(len(pixels["pixel_values"]))
        ]
        return torch.stack(each).mean(0)

    def _matched(self, picture: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        queries, image = self.config.num_query_tokens, self.config.image_token_index
        if image is not None:  # the model takes the ids of its queries' places off again
            row = torch.full((len(tokens["input_ids"]), queries), image, device=self.device)
            ids = torch.cat([row, tokens["input_ids"]], 1)
            mask = torch.cat([torch.ones_like(row), tokens["attention_mask"]], 1)
            tokens = {"input_ids": ids, "attention_mask": mask}
        if self.head == "itc":
            out = self.model(pixel_values=picture, **tokens, use_image_text_matching_head=False)
            return log_softmax(out.logits_per_image[0], dim=0)
        many = picture.expand(len(tokens["input_ids"]), -1, -1, -1)
        out = self.model(pixel_values=many, **tokens, use_image_text_matching_head=True)
        return log_softmax(out.logits_per_image, dim=1)[:, 1]

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Ids of texts, cut where they are longer than the model takes."""
        most = PADDED.get(self.kind) or self._longest()
        tokenizer = self.checkpoint.tokenizer
        self.cut += sum(len(ids) > most for ids in tokenizer(list(texts))["input_ids"])
        out = tokenizer(
            list(texts),
            padding="max_length" if self.kind in PADDED else True,
            truncation=True,
            max_length=most,
            padding_side="right",
            return_tensors="pt",
        )
        # SigLIP was trained to look at its padding too
        names = (
            ("input_ids",) if self.kind.startswith("siglip") else ("input_ids", "attention_mask")
        )
        return {name: out[name].to(self.device) for name in names}

    def _longest(self) -> int:
        text = self.config.qformer_config if self.kind == "blip-2" else self.config.text_config
        return int(text.max_position_embeddings)


def _pooled(features: Any) -> Tensor:
    return getattr(features, "pooler_output", features)
