"""``generate`` of `transformers` as harnesses call it: a batch padded on the left, to its longest
answer. Patches and ids are ready before the clock starts.
"""

from __future__ import annotations

from typing import Any

import torch
from arm import run
from PIL import Image
from tokenizers import Tokenizer
from transformers import Qwen2VLForConditionalGeneration

from evalkit.models.qwen2_vl.processing import Processor


def prepare(folder: str, rows: list[Any], options: dict[str, Any]) -> Any:
    torch.set_num_threads(options["threads"])
    dtype = getattr(torch, options["dtype"])
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    tokenizer, processor = Tokenizer.from_file(f"{folder}/tokenizer.json"), Processor()
    stops = model.generation_config.eos_token_id
    ends = set(stops if isinstance(stops, list) else [stops]) if rows[0]["natural"] else set()
    pad = model.generation_config.pad_token_id or 0
    model.generation_config.eos_token_id = sorted(ends) or None
    pixels = {path: processor.image(Image.open(path))[0] for path in {r["image"] for r in rows}}
    size = options["batch"]

    @torch.inference_mode()
    def answer(rows: list[Any]) -> dict[str, str]:
        out: dict[str, str] = {}
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            longest = max(len(r["ids"]) for r in batch)
            ids = torch.tensor([[pad] * (longest - len(r["ids"])) + r["ids"] for r in batch])
            mask = torch.tensor(
                [[0] * (longest - len(r["ids"])) + [1] * len(r["ids"]) for r in batch]
            )
            new = model.generate(
                input_ids=ids,
                attention_mask=mask,
                mm_token_type_ids=(ids == model.config.image_token_id).int(),
                pixel_values=torch.cat([pixels[r["image"]] for r in batch]).to(dtype),
                image_grid_thw=torch.tensor([r["grid"] for r in batch]),
                max_new_tokens=max(r["new"] for r in batch),
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=pad,
            )[:, longest:].tolist()
            for row, tokens in zip(batch, new):
                end = next((i for i, t in enumerate(tokens) if t in ends), len(tokens))
                out[row["id"]] = tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return out

    return answer


run(prepare)
