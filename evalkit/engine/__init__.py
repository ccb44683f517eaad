"""Offline inference over the reference model: ``cache`` (keys and values), ``sequence`` (one request under way), ``engine``."""

from evalkit.engine.engine import Engine
from evalkit.engine.sequence import Output, Prompt, Visual

__all__ = ["Engine", "Output", "Prompt", "Visual"]
