"""Offline inference over the reference model: ``engine``, and what it is made of.

``sequence``: a request on its way; ``cache``: keys and values; ``budget``: how much fits;
``fused``: joined projections.
"""

from evalkit.engine.budget import Budget
from evalkit.engine.engine import Engine
from evalkit.engine.sequence import Output, Prompt, Visual

__all__ = ["Budget", "Engine", "Output", "Prompt", "Visual"]
