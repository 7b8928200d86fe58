"""Placeholder, replaced by its module docstring."""
