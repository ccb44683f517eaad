"""``evalkit serve``: a model behind the OpenAI protocol, for the official clients, for a browser,
and for the ``openai`` adapter.

``protocol.py`` has requests and replies, ``backend.py`` the threads that answer, ``app.py`` the
routes. The protocol is that of OpenAI's chat completions, with vLLM's ``video_url`` and
``mm_processor_kwargs``.
"""
