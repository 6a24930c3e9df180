"""Registry of constructors by name, and helpful errors for unknown names."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Generic, TypeVar

T = TypeVar("T")

# Entry points of other packages: the name of a network or operator -> the module that registers it.
PLUGINS = "lgmnet.plugins"


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known word closest to ``word``, else an empty text."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def require_choice(
    key: str, value: object, known: Iterable[object], error: type[ValueError] = ValueError
) -> None:
    """Raise ``error`` unless ``value`` is one of ``known``."""
    choices = list(known)
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        hint = nearest(str(value), map(str, choices))
        raise error(f"{key} is '{value}', expected one of {listed}{hint}")


class Registry(Generic[T]):
    """A list of constructors by name. A name can be taken only once.

    Args:
        kind: what is registered, such as ``"model"``; used in messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._constructors: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        def decorate(constructor: type[T]) -> type[T]:
            if name in self._constructors:
                raise ValueError(f"{self.kind} '{name}' is already registered")
            self._constructors[name] = constructor
            return constructor

        return decorate

    def names(self) -> list[str]:
        return sorted(self._constructors)

    def find(self, name: str) -> bool:
        """Whether ``name`` is known. If not, the package that offers this name is imported first.

        Raises:
            ValueError: a package offers the name, and cannot be imported.
        """
        if name not in self._constructors:
            for plugin in entry_points(group=PLUGINS, name=name):
                try:
                    plugin.load()
                except Exception as error:  # the code of another package can raise any error
                    raise ValueError(
                        f"{self.kind} '{name}' comes from the package {plugin.value}, which cannot "
                        f"be imported ({type(error).__name__}: {error}); correct or uninstall it"
                    ) from error
        return name in self._constructors

    def get(self, name: str) -> Callable[..., T]:
        if not self.find(name):
            raise ValueError(
                f"unknown {self.kind} '{name}'{nearest(name, self.names())} "
                f"(known: {', '.join(self.names())})"
            )
        return self._constructors[name]

    def create(self, name: str, /, **options: object) -> T:
        """Call the constructor of ``name`` with ``options``.

        Raises:
            ValueError: the name is unknown, or its constructor does not have an option.
        """
        constructor = self.get(name)
        known = list(inspect.signature(constructor).parameters)
        for option in options:
            if option not in known:
                raise ValueError(
                    f"{self.kind} '{name}' has no option '{option}'{nearest(option, known)} "
                    f"(it has: {', '.join(known)})"
                )
        return constructor(**options)
