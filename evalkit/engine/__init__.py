"""Offline inference over any ``interface.EngineModel``: ``engine``, and what it is made of.

``interface``: what it asks of a model; ``sequence``: a request on its way; ``scheduler``: what
runs next; ``runner``: running it; ``cache``, ``features``: what is kept; ``decode``: one step;
``replicas``: several engines on one CPU.
"""

from evalkit.engine.engine import Engine
from evalkit.engine.interface import EngineModel, Media
from evalkit.engine.replicas import Replicas
from evalkit.engine.scheduler import Budget
from evalkit.engine.sequence import Output, Prompt, Visual

__all__ = ["Budget", "Engine", "EngineModel", "Media", "Output", "Prompt", "Replicas", "Visual"]
