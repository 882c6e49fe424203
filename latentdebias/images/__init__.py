"""Pictures in, for the encoder and the evaluator alike: find them, list them, decode and crop them."""
