"""Checks of a network's options, with errors that say what was given and what is possible."""

from collections.abc import Iterable

from lgmnet.registry import nearest


def require_choice(key: str, value: object, known: Iterable[object]) -> None:
    """Raise ValueError unless ``value`` is one of ``known``."""
    choices = list(known)
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        hint = nearest(str(value), map(str, choices))
        raise ValueError(f"{key} is '{value}', expected one of {listed}{hint}")


def require_positive(**sizes: int) -> None:
    """Raise ValueError for the first size below one."""
    for key, size in sizes.items():
        if size < 1:
            raise ValueError(f"{key} is {size}, expected at least 1")
