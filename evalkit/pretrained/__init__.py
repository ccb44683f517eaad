"""Models of `transformers` as adapters run them: whole checkpoints, and how requests become inputs.

No adapter: what several of them share.
"""
