"""Sparse attention inside stock vLLM."""


def register() -> None:
    """Entry point of `vllm.general_plugins`."""
