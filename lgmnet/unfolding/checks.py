"""Checks of the options of a network, with errors that give the value and the choices."""


def require_positive(**sizes: int) -> None:
    """Raise ValueError for the first size below one."""
    for key, size in sizes.items():
        if size < 1:
            raise ValueError(f"{key} is {size}, expected at least 1")
