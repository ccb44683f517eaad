"""From a request to what Qwen2-VL reads: decoded, resized media and a rendered conversation, shared
by both adapters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Condition
from typing import TypeVar

from evalkit.media import decode_image, decode_video
from evalkit.models.qwen2_vl.processing import FPS, sample_frames
from evalkit.models.qwen2_vl.switches import Limits, Switches, media_limits
from evalkit.models.weights import resolve
from evalkit.nano import shipped
from evalkit.types import Image, Media, MediaBudget, Message, Text, Video

A = TypeVar("A")
B = TypeVar("B")


def checkpoint_folder(model: str) -> Path:
    """The folder of a shipped checkpoint, a local one, or a hub id. Raises CheckpointError."""
    return shipped().get(model) or resolve(model)


def chat_messages(messages: Iterable[Message]) -> list[dict[str, object]]:
    """The conversation as chat templates take it; media are bare ``image`` and ``video`` parts."""
    return [
        {
            "role": m.role,
            "content": [
                {"type": "text", "text": p.text}
                if isinstance(p, Text)
                else {"type": type(p).__name__.lower()}
                for p in m.content
            ],
        }
        for m in messages
    ]


def media_of(messages: Iterable[Message]) -> list[Image | Video]:
    """Images and videos in the order in which the conversation shows them."""
    return [p for m in messages for p in m.content if isinstance(p, Media)]


def decoded(part: Image | Video, budget: MediaBudget, switches: Switches):  # type: ignore[no-untyped-def]
    """A PIL image, or the sampled frames [frames, height, width, 3] of a video."""
    if isinstance(part, Image):
        return decode_image(part)
    task = Limits(fps=budget.fps, max_frames=budget.max_frames)
    limits = media_limits(switches, task, Limits(fps=FPS))
    return decode_video(
        part,
        lambda total, video_fps: sample_frames(
            total, video_fps, limits.fps or FPS, limits.max_frames
        ),
    )


def prefetch(
    work: Callable[[A], B],
    items: Iterable[A],
    workers: int,
    depth: int,
    size: Callable[[B], int],
    most: int,
    overlap: bool = True,
) -> Generator[B]:
    """``map(work, items)`` in threads, in order, at most ``depth`` items ahead of what was taken.

    What waits to be taken holds less than ``most`` (as ``size`` measures it), and what the workers
    have in hand beyond that. Without ``overlap`` no item is begun but while one is waited for:
    where a model has all cores, threads beside it cost it more than they save.
    """
    gate = Condition()
    started, held, closed, waited_for = 0, 0, False, overlap

    def job(turn: int, item: A) -> B:
        nonlocal started, held
        with gate:  # in order, so that what is taken next is never behind what fills the room
            gate.wait_for(lambda: closed or (started == turn and held < most and waited_for))
            started += 1
            gate.notify_all()
        made = work(item)
        with gate:
            held += size(made)
        return made

    def take() -> B:
        nonlocal held, waited_for
        with gate:
            waited_for = True
            gate.notify_all()
        try:
            made = window.popleft().result()
        finally:
            waited_for = overlap
        with gate:
            held -= size(made)
            gate.notify_all()
        return made

    with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
        window: deque[Future[B]] = deque()
        try:
            for turn, item in enumerate(items):
                window.append(pool.submit(job, turn, item))
                if len(window) > depth:
                    yield take()
            while window:
                yield take()
        finally:
            with gate:
                closed = True
                gate.notify_all()
            for future in window:
                future.cancel()
