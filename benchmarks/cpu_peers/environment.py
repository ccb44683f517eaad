"""The rivals' environment and what they need of a checkpoint, made once under evalkit's cache
folder; nothing is installed beside evalkit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "openvino==2026.4.1",
    "openvino-genai==2026.4.1.0",
    "openvino-tokenizers==2026.4.1.0",
    "optimum-intel==2.2.0",
    "transformers==4.57.6",
    "torch==2.13.0",
    "protobuf",
    "sentencepiece",
    "tiktoken",
    "pillow",
)
"""optimum-intel writes what openvino reads; it needs that `transformers`."""
EXPORT = """
import sys
import openvino
from optimum.intel import OVModelForVisualCausalLM
from openvino_tokenizers import convert_tokenizer
from transformers import PreTrainedTokenizerFast

source, out = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
for kind, part in zip(
    ("tokenizer", "detokenizer"), convert_tokenizer(tokenizer, with_detokenizer=True)
):
    openvino.save_model(part, f"{out}/openvino_{kind}.xml")
model = OVModelForVisualCausalLM.from_pretrained(
    source, export=True, compile=False, load_in_8bit=False
)
model.save_pretrained(out)
"""


def python(work: Path) -> Path:
    """The interpreter of the rivals' environment, which takes some minutes the first time."""
    folder = work / "environment"
    made, out = folder / "made", folder / "bin" / "python"
    if not made.is_file():
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([out, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        # One that is linked to CUDA can't be imported beside a torch without it, and
        # `transformers` fails with it. Nothing here needs it.
        if subprocess.run([out, "-c", "import torchvision"], capture_output=True).returncode:
            subprocess.run([out, "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True)
        made.touch()
    return out


def exported(checkpoint: Path, name: str, work: Path) -> Path:
    """The checkpoint as openvino reads it, in float32 weights."""
    folder = work / "openvino" / name
    weights = (checkpoint / "model.safetensors").stat()
    made, now = folder / "made", f"{weights.st_size} {weights.st_mtime_ns}"
    if not made.is_file() or made.read_text(encoding="ascii") != now:
        print(f"exporting {checkpoint} to {folder}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        command = [python(work), "-c", EXPORT, checkpoint, folder]
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        for file in ("generation_config.json", "preprocessor_config.json", "chat_template.json"):
            (folder / file).write_bytes((checkpoint / file).read_bytes())
        made.write_text(now, encoding="ascii")
    return folder
