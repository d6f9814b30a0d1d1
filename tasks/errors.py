"""What can go wrong with a task, arranged by what the reader can do next.

- TaskError
  - ParameterError   correct the task's name or parameters
  - LengthError      choose a longer length, or easier parameters
  - DataError        fetch or repair the data set
  - TokenizerError   repair the model folder
"""

from __future__ import annotations


class TaskError(ValueError):
    """Base of all errors that this package raises on purpose."""


class ParameterError(TaskError):
    """An unknown task, an unknown parameter, or a value out of range."""


class LengthError(TaskError):
    """No sample of these parameters can be built at this length."""


class DataError(TaskError):
    """A data set is missing, has the wrong checksum, or has no usable row."""


class TokenizerError(TaskError):
    """A model folder without a usable tokenizer or chat template."""
