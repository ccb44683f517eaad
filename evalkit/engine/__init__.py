"""Offline inference over any model of ``interface.EngineModel``: ``engine``, and what it is made of.

``interface``: what it asks of a model; ``sequence``: a request on its way; ``cache``: keys and
values; ``budget``: how much fits.
"""

from evalkit.engine.budget import Budget
from evalkit.engine.engine import Engine
from evalkit.engine.interface import EngineModel, Media
from evalkit.engine.sequence import Output, Prompt, Visual

__all__ = ["Budget", "Engine", "EngineModel", "Media", "Output", "Prompt", "Visual"]
