"""Which frames of a clip are shown, and when they are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Frames ``indices`` of a clip of ``total``, at ``fps`` frames a second."""

    indices: tuple[int, ...]
    total: int
    fps: float

    @property
    def rate(self) -> float:
        """Shown frames a second, as qwen-vl-utils counts them."""
        return len(self.indices) / self.total * self.fps

    def times(self, frames: int) -> tuple[float, ...]:
        """The seconds at which each temporal step of ``frames`` frames stands: the mean of its
        first and last one's. The last frame fills up an odd step.
        """
        at = [i / self.fps for i in self.indices]
        at += at[-1:] * (-len(at) % frames)
        return tuple((at[i] + at[i + frames - 1]) / 2 for i in range(0, len(at), frames))
