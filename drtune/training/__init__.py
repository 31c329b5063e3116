"""The loop every method runs in, its optimisers and its checkpoints."""
