"""Test sets: images rebuilt and scored."""
