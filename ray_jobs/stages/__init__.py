"""Stages that know calls, not tensors."""
