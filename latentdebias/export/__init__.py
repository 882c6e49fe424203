"""Models as files that others can use."""

from latentdebias.export.model_directory import LoadedModel, ModelConfig, load_model, save_model

__all__ = ["LoadedModel", "ModelConfig", "load_model", "save_model"]
