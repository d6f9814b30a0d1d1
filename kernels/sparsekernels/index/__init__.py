"""Fused index building in Triton: what the methods' definitions compute, without large intermediates or host reads."""
