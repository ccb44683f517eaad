"""When the frames of a clip are shown, and which of them a cut in seconds keeps."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True)
class Timeline:
    """The frames of a clip in the order in which they are shown.

    ``times`` in seconds from the first one; ``fps``, frames a second on average; ``stamps`` in the
    stream's own units, empty where the file gives no usable ones. ``expected`` frames by the file's
    own account, at least as many as there are.
    """

    times: tuple[float, ...]
    stamps: tuple[int, ...]
    fps: float
    expected: int

    def cut(self, start: float | None, end: float | None) -> range:
        """Indices of the frames from the one nearest to ``start`` to the one nearest to ``end``
        (seconds); empty when the clip is over before ``start``.
        """
        last = self.times[-1] + 1 / self.fps
        if (start is not None and start >= last) or (end is not None and end < 0):
            return range(0)
        first = 0 if start is None else self._nearest(start)
        stop = len(self.times) if end is None else self._nearest(end) + 1
        return range(first, stop)

    def rate(self, frames: range) -> float:
        """Frames per second of a part: the clip's own average, unless the part's differs."""
        if len(frames) < 2 or len(frames) == len(self.times):
            return self.fps
        own = (len(frames) - 1) / (self.times[frames[-1]] - self.times[frames[0]])
        return own if abs(own - self.fps) > 0.01 * self.fps else self.fps

    def _nearest(self, time: float) -> int:
        i = bisect_left(self.times, time)
        near = range(max(i - 1, 0), min(i + 1, len(self.times)))
        return min(near, key=lambda k: (abs(self.times[k] - time), k))
