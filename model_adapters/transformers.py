"""The transformers adapter: any image-text-to-text model that `transformers` loads, as users run
it.

Qwen2-VL gets inputs of its own (``evalkit.pretrained.qwen2_vl_inputs``); other models go through
their own processor (``evalkit.pretrained.processor_inputs``).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from evalkit.adapter import ModelAdapter, answer_each, check_arguments, check_length
from evalkit.errors import CheckpointError, DataError, UsageError, reason
from evalkit.media import Times, frame_times, noted_frames
from evalkit.models.device import checked_device, chosen_dtype
from evalkit.models.qwen2_vl.chat import generation, stop_ids
from evalkit.models.qwen2_vl.switches import Switches
from evalkit.models.switch import Switch
from evalkit.models.weights import read_json
from evalkit.pretrained.checkpoint import Checkpoint, dtype_of, on_device
from evalkit.pretrained.families import box_space as family_space
from evalkit.pretrained.inputs import InputMaker, Inputs
from evalkit.pretrained.pictures import FRAMES
from evalkit.pretrained.processor_inputs import ProcessorInputs
from evalkit.pretrained.qwen2_vl_inputs import Qwen2VLInputs
from evalkit.types import (
    BoxSpace,
    Completion,
    MediaBudget,
    Request,
    TokenCounts,
    Video,
    is_box_space,
)

Ready = tuple[Request, Inputs, tuple[Times, ...]]
"""A request with its inputs, and the times of its clips' frames."""
TOKENS = ("bos", "eos", "pad", "decoder_start", "forced_bos")
"""The roles of tokens that ``generation_config.json`` names. Nothing else of it holds: answers are
greedy, whatever penalties, bans, beams or limits a checkpoint comes with.
"""


class TransformersAdapter(ModelAdapter):
    """A vision-language model of `transformers`.

    ``model`` is a shipped name, a folder or a hub id; a LoRA's folder is merged into its base.
    ``batch_size`` pads on the left; in float32 it changes no answer. ``box_space`` declares how the
    model writes boxes where that is not known of its family. ``frames`` of a video are shown, as
    images (Qwen2-VL sees videos by its own rule). ``prompt``, with ``{images}`` and ``{question}``,
    takes the place of the chat template. ``attn_implementation`` is `transformers`' own.
    ``trust_remote_code`` runs the model repository's own code: off unless asked for. The pixel and
    frame switches are honoured for Qwen2-VL; architecture switches need the reference adapter.
    """

    name = "transformers"

    def __init__(
        self,
        model: str = "nano",
        *,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int = 1,
        attn_implementation: str | None = None,
        box_space: BoxSpace | None = None,
        frames: int | None = None,
        prompt: str | None = None,
        trust_remote_code: bool = False,
        **switches: Any,
    ) -> None:
        check_arguments(type(self), model, switches)
        self.checkpoint = Checkpoint.find(model, trust_remote_code)
        self.config = self.checkpoint.config()
        self.is_qwen2vl = self.config.model_type == "qwen2_vl"
        self.switched, self.changed = self._switches(model, switches)
        if box_space is not None and not is_box_space(box_space):
            raise UsageError(
                f"box_space={box_space!r}: no space of boxes, as norm1000 or norm1:list"
            )
        self.box_space = box_space or family_space(self.config.model_type, self.checkpoint.folder)
        if self.is_qwen2vl and (frames or prompt):
            raise UsageError(
                "frames, prompt: Qwen2-VL has switches for frames, and a chat template"
            )
        if prompt is not None and "{question}" not in prompt:
            raise UsageError(f"prompt={prompt!r}: it has no place for the {{question}}")
        for name, value in (("batch_size", batch_size), ("frames", frames)):
            if value is not None and not (type(value) is int and value > 0):
                raise UsageError(f"{name}={value!r}: expected a whole number above 0")
        self.frames, self.prompt = frames or FRAMES, prompt
        self.device = checked_device(device)
        self.dtype = chosen_dtype(dtype, dtype_of(self.config), self.device)
        self.batch_size = batch_size
        self.attn_implementation = attn_implementation

    def _switches(self, model: str, given: Mapping[str, Any]) -> tuple[Switches, dict[str, Any]]:
        """All switches and those that differ from training. Raises UsageError where `transformers`
        has no such switch.
        """
        if given and not self.is_qwen2vl:
            raise UsageError(
                f"{', '.join(given)}: adapter {self.name!r} has switches for Qwen2-VL only, and "
                f"{model} is {self.config.model_type}"
            )
        trained_with = dict((getattr(self.config, "evalkit", None) or {}).get("trained_with") or {})
        if Switches.probes(Switches().changed(trained_with)):
            said = ", ".join(f"{k}={v}" for k, v in trained_with.items())
            raise UsageError(
                f"{model}: its weights were trained with {said}, which transformers can't run; "
                "the reference adapter can"
            )
        trained = Switches().with_(trained_with)
        return trained.with_(given), dict(trained.changed(given))

    @classmethod
    def switches(cls, model: str) -> Mapping[str, Switch]:
        """Pixels and frames, for Qwen2-VL."""
        path = Checkpoint.find(model).folder / "config.json"
        if not path.is_file() or read_json(path).get("model_type") != "qwen2_vl":
            return {}
        return {name: s for name, s in Switches.switches().items() if s.budget}

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        text = self.config.get_text_config()
        eos, bos = getattr(text, "eos_token_id", None), getattr(text, "bos_token_id", None)
        return {
            "adapter": self.name,
            **self.checkpoint.identity,
            "dtype": self.dtype,
            "attn_implementation": self.attn_implementation,
            "box_space": self.box_space,
            "switches": self.changed,
            **self.inputs.fingerprint,
            "inference_probe": False,
            "generation": generation(
                stop_ids(self.checkpoint.folder, eos),
                *(eos if isinstance(eos, list) else [eos]),
                bos,
            ),
        }

    @property
    def details(self) -> Mapping[str, Any]:
        return {
            "device": self.device,
            "batch_size": self.batch_size,
            "model_type": self.config.model_type,
        }

    @cached_property
    def model(self) -> Any:
        from transformers import AutoModelForImageTextToText, GenerationConfig

        model = self.checkpoint.model(
            AutoModelForImageTextToText,
            self.dtype,
            self.device,
            attn_implementation=self.attn_implementation,
        )
        said, names = model.generation_config, [f"{role}_token_id" for role in TOKENS]
        model.generation_config = GenerationConfig(**{n: getattr(said, n) for n in names})
        return model

    @cached_property
    def inputs(self) -> InputMaker:
        if self.is_qwen2vl:
            return Qwen2VLInputs(self.checkpoint, self.config, self.switched)
        return ProcessorInputs(self.checkpoint, self.config, self.frames, self.prompt)

    def frame_times(self, clip: Video, budget: MediaBudget) -> Sequence[float]:
        return frame_times(clip, lambda total, fps: self.inputs.choose(total, fps, budget))

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        source = iter(requests)
        while group := list(islice(source, self.batch_size)):
            ready: list[Ready] = []
            for request in group:
                try:
                    with noted_frames() as frames:
                        inputs = self.inputs.prepare(request)
                    check_length(inputs["input_ids"].shape[1], _max_tokens(self.config))
                    ready.append((request, inputs, tuple(frames)))
                except (CheckpointError, KeyboardInterrupt, GeneratorExit):
                    raise
                except BaseException as e:  # also a panic of a native library
                    yield Completion(request.id, finish_reason="error", error=reason(e))
            if ready:
                yield from self._answers(ready)

    def _answers(self, ready: list[Ready]) -> list[Completion]:
        """The answers of a batch. Where the model fails on it, each request is asked alone, so that
        an error is its own.
        """
        try:
            return list(self._answer(ready))
        except (CheckpointError, torch.OutOfMemoryError):
            raise
        except Exception as e:
            if len(ready) == 1:
                return [Completion(ready[0][0].id, finish_reason="error", error=reason(e))]
            return [answer for one in ready for answer in self._answers([one])]

    @torch.inference_mode()
    def _answer(self, ready: list[Ready]) -> Iterator[Completion]:
        started = time.perf_counter()
        batch = on_device(self.inputs.collate([i for _, i, _ in ready]), self.model)
        limit = max(r.max_new_tokens for r, _, _ in ready)
        out = self.model.generate(**batch, max_new_tokens=limit)
        out = _new_ids(out, batch["input_ids"], self.model.config.is_encoder_decoder).cpu()
        eos = self.model.generation_config.eos_token_id
        stops = set(eos if isinstance(eos, list) else [eos])
        seconds = time.perf_counter() - started
        for (request, inputs, frames), ids in zip(ready, out.tolist()):
            end = next((i for i, t in enumerate(ids) if t in stops), None)
            kept = ids[
                : request.max_new_tokens if end is None else min(end, request.max_new_tokens)
            ]
            stopped = end is not None and end < request.max_new_tokens
            seen = self.inputs.visual_tokens(inputs)
            yield Completion(
                request.id,
                self.inputs.tokenizer.decode(
                    kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
                ),
                "stop" if stopped else "length",
                TokenCounts(inputs["input_ids"].shape[1] - seen, seen, len(kept)),
                seconds,
                box_space=self._space(inputs),
                frames=frames,
            )

    def rank(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return answer_each(requests, self._ranked)

    def _ranked(self, request: Request) -> Completion:
        if not request.choices:
            raise DataError("nothing to rank: the question has no choices")
        inputs, tokenizer = self.inputs.prepare(request), self.inputs.tokenizer
        choices = [tokenizer(c, add_special_tokens=False)["input_ids"] for c in request.choices]
        length = inputs["input_ids"].shape[1]
        check_length(length + max(map(len, choices)), _max_tokens(self.config))
        batch = on_device(self.inputs.collate([inputs]), self.model)
        scores = tuple(self._likelihood(batch, choice) for choice in choices)
        seen = self.inputs.visual_tokens(inputs)
        return Completion(
            request.id,
            request.choices[max(range(len(scores)), key=scores.__getitem__)],
            "rank",
            TokenCounts(length - seen, seen),
            logprobs=scores,
            box_space=self._space(inputs),
        )

    @torch.inference_mode()
    def _likelihood(self, batch: Inputs, choice: Sequence[int]) -> float:
        """Summed log-probability of a choice's tokens as the answer. The model's own ``generate``
        takes them as if it had chosen them, so that positions and masks are those of every family.
        """
        forced = iter(choice)
        out = self.model.generate(
            **batch,
            max_new_tokens=len(choice),
            prefix_allowed_tokens_fn=lambda *_: [next(forced)],
            output_logits=True,
            return_dict_in_generate=True,
        )
        if len(out.logits) < len(choice):
            raise DataError("a choice holds a token that ends an answer")
        steps = zip(out.logits, choice)
        return math.fsum(float(step[0].float().log_softmax(-1)[token]) for step, token in steps)

    def _space(self, inputs: Inputs) -> BoxSpace | None:
        """The space of an answer's boxes: with the size that the model saw, if they count on it."""
        space = self.box_space
        if space and space.startswith("resized") and "@" not in space:
            seen = self.inputs.seen(inputs)
            return f"{space}@{seen[0]}x{seen[1]}" if seen else space
        return space


def _new_ids(out: Tensor, prompt: Tensor, encoder_decoder: bool) -> Tensor:
    """The generated ids [batch, new] among those that ``generate`` gives: a decoder's follow the
    prompt in most families, an encoder-decoder's follow its start token.
    """
    if encoder_decoder:
        return out[:, 1:]
    length = prompt.shape[1]
    repeated = out.shape[1] >= length and bool((out[:, :length] == prompt).all())
    return out[:, length:] if repeated else out


def _max_tokens(config: Any) -> int:
    """Tokens of the longest prompt that a model of `transformers` is made for; YaRN and its like
    extend what ``max_position_embeddings`` says.
    """
    text = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None) or sys.maxsize
    rope = getattr(text, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings")
    return max(most, round(original * (rope.get("factor") or 1))) if original else int(most)
