"""Standard output and error of a command."""

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO


class Console:
    """Standard output or error that ignores a closed reader.

    Without it ``train.py | head`` would end the run at its next line.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._quietly(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._quietly(self._stream.flush)

    def _quietly(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except BrokenPipeError:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_console() -> None:
    """Let the process continue if the reader of its output closes."""
    sys.stdout, sys.stderr = Console(sys.stdout), Console(sys.stderr)
