"""The training loop, its checkpoints, and the way onto Ray Train and DeepSpeed."""
