"""openvino-genai with continuous batching, its fastest mode; from files to texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as og
from arm import PAD, run, same_tokens
from PIL import Image

PLACEHOLDER = f"<|vision_start|>{PAD}<|vision_end|>"


def prepare(folder: str, rows: list[Any], options: dict[str, Any]) -> Any:
    settings = {"INFERENCE_NUM_THREADS": options["threads"], "PERFORMANCE_HINT": "LATENCY"}
    if "streams" in options:
        settings |= {"NUM_STREAMS": options["streams"], "PERFORMANCE_HINT": "THROUGHPUT"}
    if options["dtype"] == "bfloat16":
        settings["INFERENCE_PRECISION_HINT"] = "bf16"
    elif options["dtype"] == "float32":  # by default keys and values have 8 bits, activations may
        settings |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    scheduler = og.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.max_num_batched_tokens = options.get("tokens", 4096)
    scheduler.max_num_seqs = options["batch"]
    scheduler.enable_prefix_caching = options.get("prefix", False)
    scheduler.dynamic_split_fuse = False
    pipe = og.ContinuousBatchingPipeline(folder, scheduler, "CPU", settings)
    tokenizer = pipe.get_tokenizer()

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()

    same_tokens(rows, encode)
    stops = json.loads((Path(folder) / "generation_config.json").read_text())["eos_token_id"]

    def answer(rows: list[Any]) -> dict[str, str]:
        out: dict[str, str] = {}
        for start in range(0, len(rows), options["batch"]):
            batch = rows[start : start + options["batch"]]
            each = []
            for row in batch:
                generation = og.GenerationConfig()
                generation.do_sample = False
                generation.apply_chat_template = False
                generation.max_new_tokens = row["new"]
                generation.ignore_eos = not row["natural"]
                if row["natural"]:
                    generation.stop_token_ids = set(stops if isinstance(stops, list) else [stops])
                each.append(generation)
            prompts = [r["prompt"].replace(PLACEHOLDER, "<ov_genai_image_0>") for r in batch]
            images = [
                [ov.Tensor(np.asarray(Image.open(r["image"]).convert("RGB"))[None])] for r in batch
            ]
            done = pipe.generate(prompts, images=images, generation_config=each)
            out |= {r["id"]: d.texts[0] for r, d in zip(batch, done)}
        return out

    return answer


run(prepare)
