"""SparseK attention (arXiv 2406.16747): a trained query-independent score decides which keys stay.

`operator` projects scores to gates, `streaming` and `chunked` do so for every prefix, `pattern` turns
them into one end row per key, `attention` is differentiable and linear in memory, `definition` is
what all of it means, `slots` generates with a constant number of cache entries.
"""
