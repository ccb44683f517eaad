"""Errors meant for people: what was wrong, where, and what to do."""

from pathlib import Path
from signal import Signals

from evalkit.safe_text import mask

PLUGIN = "evalkit_plugin_"
"""Begins the name of the module of a plugin that was given as a file."""


class EvalkitError(Exception):
    """Base of every error that evalkit raises on purpose; its text is shown without a traceback
    (exit code 1), and holds no secret: it may quote what a user or a library wrote.
    """

    def __str__(self) -> str:
        return mask(super().__str__())


class Stopped(KeyboardInterrupt):
    """The process was told to end by a signal other than Ctrl-C's: what is in hand is kept."""

    def __init__(self, signal: Signals) -> None:
        super().__init__(signal)
        self.signal = signal


class UsageError(EvalkitError):
    """The command or configuration is wrong (exit code 2)."""


class DataError(EvalkitError):
    """A dataset, a row or a media file can't be used."""


class ScoringError(EvalkitError):
    """A task's own ``score`` failed on an answer."""


class CheckpointError(EvalkitError):
    """A model folder can't be loaded: a missing file, tensor or key."""


def reason(e: BaseException) -> str:
    """What went wrong with a sample, for its record: the text of our own errors, the type and text
    of others, with the line where they left a plugin's file, secrets masked.
    """
    if isinstance(e, EvalkitError):
        return text_of(e)
    return f"{type(e).__name__}: {text_of(e)}{_place(e)}"


def _place(e: BaseException) -> str:
    """`` (my_task.py, line 12)``: the innermost frame in a plugin that was given as a file."""
    place, at = "", e.__traceback__
    while at:
        if str(at.tb_frame.f_globals.get("__name__")).startswith(PLUGIN):
            place = f" ({Path(at.tb_frame.f_code.co_filename).name}, line {at.tb_lineno})"
        at = at.tb_next
    return place


def text_of(e: BaseException) -> str:
    """The text of any exception, secrets masked, also of one that can't say what it is."""
    try:
        return mask(str(e))
    except Exception:
        return "(its text can't be shown)"
