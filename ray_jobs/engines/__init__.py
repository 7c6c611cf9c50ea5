"""Models that know tensors, not calls."""
