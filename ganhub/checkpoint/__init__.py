"""Checkpoint files of every era -> plain tensors, without running anything that a file contains."""
