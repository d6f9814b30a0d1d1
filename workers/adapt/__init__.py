"""Training of SparseK scorers: text, warm start, scorer-only training, evaluation. Needs transformers and torch."""
