"""Experiments: many runs from one YAML file, and a table of them."""
