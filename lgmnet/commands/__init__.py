"""The commands: ``lgmnet train``, ``lgmnet test``, ``lgmnet measure`` and the others.

A command is one line in `COMMANDS` and one module of this package with its name, with ``-``
written as ``_``. The module has two functions:

* ``parser()`` returns its `argparse.ArgumentParser`. Importing the module and calling ``parser``
  must not import PyTorch, so that ``--help`` answers at once. Import what is slow inside ``run``.
* ``run(arguments)`` does the work and returns the exit code. ``arguments.prog`` is the name of the
  command, for messages. A ValueError or an OSError becomes one line, ``<prog>: <message>``.
"""

import importlib
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lgmnet.console import outlive_console
from lgmnet.registry import nearest


class Command(NamedTuple):
    """What a command does, and the file that runs it in a clone without installation."""

    summary: str
    file: str


COMMANDS = {
    "train": Command("Train a network.", "train.py"),
    "test": Command("Score weights on test sets; list the shipped weights.", "test.py"),
    "measure": Command("Measure an image: write y.", "scripts/measure.py"),
    "reconstruct": Command("Reconstruct an image from y.", "scripts/reconstruct.py"),
    "report": Command("Write a page: scores, pictures, stages, Φ.", "scripts/report.py"),
    "robustness": Command("PSNR over noise, bits, shifts and sizes.", "scripts/robustness.py"),
    "table": Command("Several results as one table: LaTeX, Markdown, CSV.", "scripts/table.py"),
    "figure": Command("Figures for a paper: crops, PSNR over ratio and cost.", "scripts/figure.py"),
    "experiment": Command("Train and score every run of an ablation.", "scripts/experiment.py"),
    "benchmark": Command("Size, time and memory of networks.", "scripts/benchmark.py"),
    "export": Command("Write one file for programs without lgmnet.", "scripts/export_model.py"),
    "refit": Command("Adapt weights to your own Φ.", "scripts/refit.py"),
    "import-weights": Command("Import weights of the authors.", "scripts/import_weights.py"),
    "verify": Command("Compare this machine with known scores.", "scripts/verify.py"),
    "prepare-data": Command("Download, copy or pack data sets.", "scripts/prepare_data.py"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The program ``lgmnet``: returns the exit code."""
    outlive_console()
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in COMMANDS:
        return call(name, rest, f"lgmnet {name}")
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name == "--version":
        import lgmnet

        print(f"lgmnet {lgmnet.__version__}")
        return 0
    known = ", ".join(COMMANDS)
    print(f"lgmnet: there is no command '{name}'{nearest(name, COMMANDS)} (known: {known})",
          file=sys.stderr)  # fmt: skip
    return 2


def overview() -> str:
    """The text of ``lgmnet --help``."""
    lines = [f"  {name:<16}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lgmnet COMMAND ...",
            "",
            "Deep-unfolding image compressive sensing. The commands:",
            "",
            *lines,
            "",
            "lgmnet COMMAND --help explains a command; lgmnet --version prints the version.",
        ]
    )


def run_file(name: str) -> int:
    """Run a command as the program of this process, as train.py does."""
    outlive_console()
    return call(name)


def call(name: str, arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run one command.

    Args:
        name: a name in `COMMANDS`.
        arguments: default: those of this process.
        prog: how messages call the command; default: the file that was started.

    Returns:
        The exit code.
    """
    module = importlib.import_module(f"lgmnet.commands.{name.replace('-', '_')}")
    parser = module.parser()
    if prog:
        parser.prog = prog
        file, epilog = COMMANDS[name].file, parser.epilog or ""
        parser.epilog = epilog.replace(f"python {file}", prog).replace(file, f"-m {prog}")
    options = parser.parse_intermixed_args(arguments)
    options.prog = parser.prog
    try:
        return module.run(options)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
