"""Weights as files: found, read, checked, written."""
