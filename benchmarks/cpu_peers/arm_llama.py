"""llama.cpp's server; from files to texts."""

from __future__ import annotations

import atexit
import base64
import http.client
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from arm import PAD, counted, run, same_tokens
from tokenizers import Tokenizer

PLACEHOLDER = f"<|vision_start|>{PAD}<|vision_end|>"


def prepare(folder: str, rows: list[Any], options: dict[str, Any]) -> Any:
    slots = options["slots"]
    longest = max(len(r["ids"]) + r["new"] for r in rows)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [options["server"], "--model", f"{folder}/model.gguf"]
    command += ["--mmproj", f"{folder}/mmproj.gguf", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--parallel", str(slots)]
    command += ["--threads", str(options["threads"]), "--ctx-size", str(slots * (longest + 64))]
    command += ["--ubatch-size", str(options.get("physical", 512))]  # tokens of one product
    command += ["--image-min-tokens", "4"]  # nano's pages are small
    command += ["--cache-ram", "0"]  # of prompts that no slot holds any more
    if options["dtype"] == "float32":
        command += ["--cache-type-k", "f32", "--cache-type-v", "f32"]
    server = subprocess.Popen(command, stdout=sys.stderr)
    atexit.register(server.kill)
    counted.append(str(server.pid))

    def call(path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST" if body else "GET", path, json.dumps(body))
        return json.load(connection.getresponse())

    while True:
        try:
            marker = call("/props")["media_marker"]
            break
        except (ConnectionError, KeyError):  # not there yet, or still loading
            if server.poll() is not None:
                raise SystemExit("llama-server ended") from None
            time.sleep(0.1)
    whole = {"add_special": False, "parse_special": True}
    same_tokens(rows, lambda text: call("/tokenize", {"content": text, **whole})["tokens"])
    tokenizer = Tokenizer.from_file(options["tokenizer"])

    def ask(row: Any) -> tuple[str, str]:
        picture = base64.b64encode(Path(row["image"]).read_bytes()).decode("ascii")
        text = row["prompt"].replace(PLACEHOLDER, marker)
        body = {
            "prompt": {"prompt_string": text, "multimodal_data": [picture]},
            "n_predict": row["new"],
            "temperature": 0,
            "ignore_eos": not row["natural"],
            "return_tokens": True,
            "cache_prompt": options["cache"],
        }
        tokens = call("/completion", body)["tokens"]
        return row["id"], tokenizer.decode(tokens, skip_special_tokens=True)

    def answer(rows: list[Any]) -> dict[str, str]:
        with ThreadPoolExecutor(slots) as pool:
            return dict(pool.map(ask, rows))

    return answer


run(prepare)
