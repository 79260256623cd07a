"""From a checkpoint to a verified artifact in a Triton model repository."""
