"""The rivals' environment, and checkpoints as they read them, made once under a folder of their
own; nothing is installed beside evalkit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
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
    "cmake",
    "ninja",
)
"""optimum-intel writes what openvino reads; it needs that `transformers`. cmake and ninja build
llama.cpp.
"""
LLAMA = "llama-cpp-python==0.3.36"
"""A Python binding: the package index has llama.cpp's sources inside its own."""
LLAMA_OFF = ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_APP", "BUILD_UI", "USE_PREBUILT_UI", "OPENSSL")
EXPORT = """
import sys
import openvino
from optimum.intel import OVModelForVisualCausalLM
from openvino_tokenizers import convert_tokenizer
from transformers import PreTrainedTokenizerFast

source, out, weights = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
for kind, part in zip(
    ("tokenizer", "detokenizer"), convert_tokenizer(tokenizer, with_detokenizer=True)
):
    openvino.save_model(part, f"{out}/openvino_{kind}.xml")
model = OVModelForVisualCausalLM.from_pretrained(
    source, export=True, compile=False, load_in_8bit=weights == "int8"
)
model.save_pretrained(out)
"""
CONVERT = """
import runpy
import sys

sources, *arguments = sys.argv[1:]
sys.path[:0] = [sources, f"{sources}/gguf-py"]
from conversion import base

# It knows a tokenizer by a hash of what that makes of a text, and nano's it can't know. Of its
# names this one splits words as the releases do and takes whole words before it merges, as nano
# does. (It leaves up to three digits together, where the vocabulary has them: nano's has none.)
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "glm4"
sys.argv[1:] = arguments
runpy.run_path(f"{sources}/convert_hf_to_gguf.py", run_name="__main__")
"""


def python(work: Path) -> Path:
    """The interpreter of the rivals' environment, which takes some minutes the first time."""
    folder = work / "environment"
    made, out = folder / "made", folder / "bin" / "python"
    if not made.is_file() or made.read_text(encoding="ascii") != " ".join(PACKAGES):
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([out, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        # One that is linked to CUDA can't be imported beside a torch without it, and
        # `transformers` fails with it. Nothing here needs it.
        if subprocess.run([out, "-c", "import torchvision"], capture_output=True).returncode:
            subprocess.run([out, "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True)
        made.write_text(" ".join(PACKAGES), encoding="ascii")
    return out


class Unbuilt(Exception):
    """A rival that can't be made here, with the reason."""


def llama_server(work: Path) -> Path:
    """llama.cpp's server, built for this processor, which takes some ten minutes of one core the
    first time. `CMAKE_BUILD_PARALLEL_LEVEL` says with how many compilers at once.
    """
    folder = work / "llama.cpp"
    made, server = folder / "made", folder / "build" / "bin" / "llama-server"
    if not made.is_file():
        print(f"building {folder}", file=sys.stderr)
        binaries = python(work).parent
        if not any(folder.glob("*.tar.gz")):
            download = [binaries / "python", "-m", "pip", "download", "--quiet", "--no-deps"]
            _do([*download, "--no-binary", ":all:", "--dest", folder, LLAMA])
        with tarfile.open(next(folder.glob("*.tar.gz"))) as sources:
            sources.extractall(folder, filter="data")
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON"]
        options += [f"-DLLAMA_{part}=OFF" for part in LLAMA_OFF]
        path = {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
        cmake, build = binaries / "cmake", folder / "build"
        _do([cmake, "-G", "Ninja", "-S", llama_sources(work), "-B", build, *options], path)
        _do([cmake, "--build", build, "--target", "llama-server"], path)
        made.touch()
    return server


def llama_sources(work: Path) -> Path:
    """Where the sources lie once ``llama_server`` has unpacked them."""
    return next((work / "llama.cpp").glob("*/vendor/llama.cpp"))


def openvino(checkpoint: Path, name: str, weights: str, work: Path) -> Path:
    """The folder of a checkpoint as openvino reads it; ``weights`` is float32 or int8."""

    def make(folder: Path) -> None:
        command = [python(work), "-c", EXPORT, checkpoint, folder, weights]
        _do(command, {"HF_HUB_OFFLINE": "1"})
        for file in ("generation_config.json", "preprocessor_config.json", "chat_template.json"):
            (folder / file).write_bytes((checkpoint / file).read_bytes())

    return _made(work / "openvino" / f"{name}-{weights}", checkpoint, make)


def gguf(checkpoint: Path, name: str, weights: str, work: Path) -> Path:
    """The folder of a checkpoint as llama.cpp reads it, model.gguf and mmproj.gguf; ``weights`` is
    one of its names of types: f32, bf16, q8_0.
    """
    llama_server(work)

    def make(folder: Path) -> None:
        for file, more in (("model.gguf", []), ("mmproj.gguf", ["--mmproj"])):
            to = ["--outfile", folder / file, "--outtype", weights, *more]
            _do([python(work), "-c", CONVERT, llama_sources(work), checkpoint, *to])

    return _made(work / "gguf" / f"{name}-{weights}", checkpoint, make)


def _made(folder: Path, checkpoint: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, filled by ``make`` unless it already was from these weights."""
    about = (checkpoint / "model.safetensors").stat()
    made, now = folder / "made", f"{about.st_size} {about.st_mtime_ns}"
    if not made.is_file() or made.read_text(encoding="ascii") != now:
        print(f"writing {checkpoint} to {folder}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)
        made.write_text(now, encoding="ascii")
    return folder


def _do(command: list[str | Path], more: Mapping[str, str] = {}) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more})
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Unbuilt(f"{Path(command[0]).name}: " + " ".join(said[-3:]))
