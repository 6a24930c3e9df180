"""Every command that a page of the documentation prints is understood by its program.

Most commands are run too, by test_readme.py and test_docs_commands.py. Here the programs read their
arguments and stop: files, options and settings of a printed command exist.
"""

import argparse
import glob
import re
import shlex

import pytest

from lgmnet.config import load_config
from tests.conftest import PROJECT
from tests.test_scripts import run_main

PAGES = sorted([*PROJECT.glob("docs/**/*.md"), *PROJECT.glob("*.md"), *PROJECT.glob("*/README.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELL = {"", "bash", "sh", "console"}
PROGRAM = re.compile(r"(?:train|test|scripts/\w+)\.py")
# Configs that a page tells its reader to write.
THEIRS = {"configs/box_mean.yaml", "configs/my_net.yaml"}


class Understood(Exception):
    """A program has read its arguments."""


def commands() -> list:
    """The words of each printed command, from the program on, once."""
    found = {}
    for page in PAGES:
        blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
        for block in (text for language, text in blocks if language in SHELL):
            for line in block.replace("\\\n", "").splitlines():
                if not PROGRAM.search(line):
                    continue
                # $resume is a variable of a script; it can be empty.
                words = shlex.split(line.replace("$resume", ""), comments=True)
                start = next((k for k, word in enumerate(words) if PROGRAM.fullmatch(word)), None)
                if start is not None and not THEIRS & set(words):
                    name = f"{page.relative_to(PROJECT)}: {' '.join(words[start:])}"
                    found.setdefault(tuple(words[start:]), name)
    return [pytest.param(words, id=name) for words, name in found.items()]


def test_commands_are_found():
    assert len(commands()) > 60


@pytest.mark.parametrize("words", commands())
def test_a_printed_command_is_understood(words, monkeypatch):
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(name))
    monkeypatch.chdir(PROJECT)
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))  # as Python does for a script
    program, *arguments = words
    with pytest.raises(Understood) as understood:
        run_main(program, [name for word in arguments for name in expanded(word)], monkeypatch)
    if program == "train.py":
        settings = understood.value.args[0]
        load_config(settings.config, settings.overrides, settings.joined)


def stopping(name: str):
    """The method of a parser, which raises Understood with its result."""
    method = getattr(argparse.ArgumentParser, name)

    def parse(parser, *arguments, **options):
        raise Understood(method(parser, *arguments, **options))

    return parse


def expanded(word: str) -> list[str]:
    """The files of a pattern; the word itself if there are none."""
    return sorted(glob.glob(word)) or [word]
