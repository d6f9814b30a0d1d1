"""Models by short name, local folder or hub id: where they are, what identifies them, how to get them."""

from orchestrator.models.resolve import ModelDescription, describe_model, named_folder, resolve_model_folder

__all__ = ["ModelDescription", "describe_model", "named_folder", "resolve_model_folder"]
