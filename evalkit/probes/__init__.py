"""Probes: scenes drawn from a seed, trivial to see, on which only place, order or time matters.

A probe is a small class: what it draws (``marks``), what it asks (``questions``), and what the
answer is in any world (``answer``). From that one function come the gold answers, and the ideal
observer of ``oracle``, who says what can be known from which view of a scene. Small models are
trained on probes by ``evalkit study``, and any model is asked them as tasks (``evalkit run
--tasks probe_where``).

Ideas: needles in clips with a look-alike at a distance (LongVA, arXiv 2406.16852; VideoRoPE, arXiv
2502.05173), text between picture and question (arXiv 2603.10863), documents under diagonal layouts
(arXiv 2510.23095); the controls by view are evalkit's.
"""

from __future__ import annotations

from collections.abc import Mapping

from evalkit.probes.controls import Controls
from evalkit.probes.events import Events
from evalkit.probes.lookup import LookUp, Needle, Reading
from evalkit.probes.relations import Relations
from evalkit.probes.scene import Probe
from evalkit.probes.where import Aspect, Fading, Where

PROBES: Mapping[str, type[Probe]] = {
    probe.name: probe
    for probe in (
        Where,
        Relations,
        LookUp,
        Controls,
        Events,
        Needle,
        Fading,
        Aspect,
        Reading,
    )
}
"""All probes by name."""
