"""Models as files that others can use."""

# diffusers resolves a component of another package only where its module has been imported already.
from latentdebias.export import dit_transformer
from latentdebias.export.model_directory import LoadedModel, ModelConfig, load_model, save_model

__all__ = ["LoadedModel", "ModelConfig", "dit_transformer", "load_model", "save_model"]
