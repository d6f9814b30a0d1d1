"""Executors: one attention over any selection. `reference` (torch), `flash` (FlashAttention), `triton` (portable)."""
