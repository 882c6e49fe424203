"""Import of published checkpoints, import and export of diffusers folders, upload to the Hugging Face hub."""
