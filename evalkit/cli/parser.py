"""The argument parser that every verb uses: argparse with habits of other harnesses accepted, and
an answer for what it does not know.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction["Parser"]

VERB_WORDS = {
    "list": "tasks",
    "ls": "tasks",
    "task": "tasks",
    "model": "models",
    "adapters": "models",
    "eval": "run",
    "evaluate": "run",
    "test": "run",
    "chat": "ask",
    "diff": "compare",
    "results": "leaderboard",
    "board": "leaderboard",
    "browse": "view",
    "score": "rescore",
    "ablate": "sweep",
    "ablations": "switches",
    "benchmark": "bench",
}
"""Words that other tools use for a verb."""

ELSEWHERE = {
    "fewshot-as-multiturn": "examples (--num-fewshot) are always turns of the conversation",
    "log-samples": "every answer is always journaled; read them with evalkit.load_samples()",
    "log-samples-suffix": "every answer is always journaled, in the cell's own folder",
    "predict-only": "every answer is journaled; evalkit rescore scores them again",
    "gen-kwargs": "answers are greedy unless --temperature is set; their length is the task's "
    "max_new_tokens, and --thinking N more for a thought before",
    "max-new-tokens": "an answer's length is the task's max_new_tokens: part of what is measured; "
    "--thinking N is for models that think before they answer",
    "system-instruction": "use --system",
    "apply-chat-template": "the checkpoint's own chat template is always applied; --chat-template "
    "gives another",
    "wandb-args": "no tracker is built in; log what evalkit.load_results() returns",
    "wandb-log-samples": "no tracker is built in; log what evalkit.load_samples() returns",
    "hf-hub-log-args": "nothing is uploaded; results lie in the output folder",
    "include-path": "give the task's file: --tasks ./my_task.py",
    "use-cache": "a repeated command resumes and asks nothing twice; --fresh asks again",
    "cache-requests": "a repeated command resumes and asks nothing twice; --fresh asks again",
    "rewrite-requests-cache": "--fresh asks again",
    "overwrite": "--fresh asks again",
    "resume": "repeat the command: it goes on where the last one stopped",
    "reuse": "repeat the command: it goes on where the last one stopped",
    "write-out": "evalkit tasks NAME shows a prompt; evalkit report shows all of them",
    "show-config": "evalkit tasks NAME shows a task's settings",
    "verbosity": "use -v for more, -q for less",
    "trust-remote-code": "give it to its adapter: --model-args trust_remote_code=true",
    "max-batch-size": "the batch is chosen from free memory; --batch-size bounds it",
    "bootstrap-iters": "intervals are always computed, over images or clips",
    "random-seed": "answers are greedy; --seed draws which samples are asked",
    "pretrained": "use --model",
    "model-path": "use --model",
    "work-dir": "use --output",
    "api-key": "(no option) set it in the environment, where the adapter reads it",
    "token": "(no option) set it in the environment, where the adapter reads it",
    "judge": "scores are computed, never judged by a model",
}
"""Options of other harnesses, and what evalkit does instead."""


class Parser(argparse.ArgumentParser):
    """argparse that reads ``--batch_size`` as ``--batch-size``, refuses an option given twice, and
    says what to write instead of what it does not know.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self.register("action", None, Once)
        self.register("action", "store", Once)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([_with_dashes(w) for w in words], namespace)

    def error(self, message: str) -> NoReturn:
        if "invalid choice: " in message:
            message += self._nearest_choice(message)
        self.exit(2, f"evalkit: error: {message}\n{self.prog} --help lists what there is\n")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Ends with what to write instead of arguments that this verb does not have."""
        options = [o for a in self._actions for o in a.option_strings if a.help != HIDDEN]
        hints = [hint for word in unknown if (hint := _instead(word, options, self.prog))]
        self.error("; ".join([f"unrecognized arguments: {' '.join(unknown)}", *hints]))

    @property
    def option_strings(self) -> list[str]:
        """The options that it knows, as they are written."""
        return [option for action in self._actions for option in action.option_strings]

    def verb(self, name: str) -> Parser:
        """The parser of a verb."""
        choices = next(a.choices for a in self._actions if isinstance(a.choices, dict))
        parser: Parser = choices[name]
        return parser

    def _nearest_choice(self, message: str) -> str:
        word = message.partition("invalid choice: ")[2].partition(" (")[0].strip("'\"")
        choices = {str(c) for a in self._actions for c in a.choices or ()}
        nearest = [VERB_WORDS[word]] if VERB_WORDS.get(word) in choices else _nearest(word, choices)
        return f"; did you mean {nearest[0]}?" if nearest else ""


HIDDEN = argparse.SUPPRESS
"""As an option's help: it works, and no help lists it."""


class Once(argparse._StoreAction):
    """Stores a value, and refuses a second one: silently taking the last hides a mistake."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string:
            given: set[str] = vars(namespace).setdefault("_given", set())
            if self.dest in given:
                raise argparse.ArgumentError(self, "given twice")
            given.add(self.dest)
        setattr(namespace, self.dest, values)


def _with_dashes(word: str) -> str:
    """``--batch_size=4`` as ``--batch-size=4``; anything else as it is."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _instead(word: str, options: Sequence[str], prog: str) -> str:
    name = word.lstrip("-").partition("=")[0]
    if not word.startswith("-") or not name:
        return ""
    if name in ELSEWHERE:
        return f"--{name}: {ELSEWHERE[name]}"
    if nearest := _nearest(word.partition("=")[0], options):
        return f"did you mean {nearest[0]}?"
    if "--switch" in options:
        return f"a switch is given as --switch {name.replace('-', '_')}=VALUE (evalkit switches)"
    return ""


def _nearest(word: str, known: Iterable[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(word, list(known), 1, 0.7)
