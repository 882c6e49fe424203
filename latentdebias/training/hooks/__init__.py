"""What happens after a step, besides the training itself."""
