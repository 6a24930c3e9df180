"""Checks of a network's options, with errors that say what was given and what is possible."""


def require_positive(**sizes: int) -> None:
    """Raise ValueError for the first size below one."""
    for key, size in sizes.items():
        if size < 1:
            raise ValueError(f"{key} is {size}, expected at least 1")
