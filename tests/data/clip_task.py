"""A task of one clip, which lies beside this file; for the test of the page."""

from pathlib import Path

from evalkit.task import Metric, Subset, Task
from evalkit.types import Message, Sample, Score, Text, Video

HERE = Path(__file__).parent


class Rows:
    def rows(self, override=None):
        yield {}

    def describe(self, override=None):
        return {"kind": "made"}


class Clips(Task):
    name = "clips"
    subsets = {"all": Subset(Rows())}
    metrics = (Metric("accuracy"),)

    def samples(self, row):
        parts = (Video(HERE / "clip.mp4"), Text("What happens?"))
        yield Sample("1", (Message("user", parts),), "light")

    def score(self, sample, completion):
        return Score({"accuracy": 0.0}, parsed=completion.text)
