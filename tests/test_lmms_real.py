"""evalkit's model inside the real lmms-eval, as a user runs it: `make test-lmms` installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.nano.mini import HERE

pytestmark = pytest.mark.lmms

TASK = """
task: docvqa_mini
dataset_path: parquet
dataset_kwargs: {{data_files: {{validation: {data}}}}}
test_split: validation
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answers
generation_kwargs: {{max_new_tokens: 32, temperature: 0, do_sample: false}}
process_results: !function utils.process_results
metric_list:
  - {{metric: exact, aggregation: mean, higher_is_better: true}}
"""
UTILS = """
from evalkit.protocols import QWEN2_VL_WORDS

def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]

def doc_to_text(doc, **_):
    return QWEN2_VL_WORDS.text(question=doc["question"])

def process_results(doc, results):
    return {"exact": float(results[0].strip() in doc["answers"])}
"""


def test_lmms_eval_scores_evalkits_model(tmp_path: Path) -> None:
    """Nano answers the first questions of docvqa:mini, which are easy, without a fault."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    data = HERE / "docvqa" / "validation-00000-of-00001.parquet"
    (tasks / "docvqa_mini.yaml").write_text(TASK.format(data=data))
    (tasks / "utils.py").write_text(UTILS)
    command = [sys.executable, "-m", "lmms_eval", "--model", "evalkit", "--tasks", "docvqa_mini"]
    command += ["--model_args", "pretrained=nano", "--limit", "8", "--batch_size", "1"]
    command += ["--include_path", str(tasks), "--output_path", str(tmp_path / "out")]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    results = sorted((tmp_path / "out").rglob("*results.json"))
    assert results, done.stdout[-2000:] + done.stderr[-3000:]
    scores = json.loads(results[0].read_text())["results"]["docvqa_mini"]
    assert scores["exact,none"] >= 0.75
