"""The nine long-context tasks: samples from an identity, scores from a completion.

Plain Python: knows no model, engine, GPU or database. A sample is a pure function of
(task, version, parameters, length, tokenizer, seed, index); see `tasks.task.Task.sample`.
"""
