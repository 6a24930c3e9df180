"""The program lgmnet: every command explains itself at once."""

import re
import subprocess
import sys

import pytest

import lgmnet
from lgmnet.commands import COMMANDS, call, import_weights, import_weights_run, main
from lgmnet.weights.published import TRANSLATORS
from tests.conftest import PROJECT

HEAVY = "print([m for m in ('torch', 'cv2', 'scipy', 'matplotlib') if m in sys.modules])"


def python(code, *arguments, folder=PROJECT):
    """Output of a new process that runs ``code`` and then says which large packages it has."""
    text = f"import sys, runpy\n{code}\n{HEAVY}"
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["test", "--list"], ["prepare-data", "--list"]]
    + [[name, "--help"] for name in COMMANDS],
    ids=" ".join,
)
def test_an_answer_needs_no_pytorch(arguments, tmp_path):
    code = f"""
from lgmnet.commands import main
try:
    code = main({arguments})
except SystemExit as end:
    code = end.code
assert code == 0
"""
    found = python(code, folder=tmp_path)
    assert len(found) > len("[]\n")
    assert found.endswith("[]\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_file_of_a_command_explains_it_without_pytorch(name, tmp_path):
    file = PROJECT / COMMANDS[name].file
    code = f"""
sys.argv = [{str(file)!r}, "--help"]
try:
    runpy.run_path({str(file)!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0
"""
    found = python(code, folder=tmp_path)
    assert found.startswith(f"usage: {file.name} ")
    assert found.endswith("[]\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_in_the_overview_and_its_examples_name_the_program(name, capsys):
    assert main(["--help"]) == 0
    assert f"  {name} " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert f"lgmnet {name}" in text.partition("example")[2]
    assert not re.search(r"(scripts/\w+|train|test)\.py", text.partition("example")[2])


def test_all_networks_with_an_importer_can_be_named():
    names = {*import_weights_run.IMPORTERS, *TRANSLATORS, "usrnet"}
    assert tuple(sorted(names)) == import_weights.NETWORKS


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert "there is no command 'trian'; did you mean 'train'? (known: " in capsys.readouterr().err


def test_an_error_names_the_command_and_is_one_line(capsys):
    assert main(["test", "nothing"]) == 1
    assert capsys.readouterr().err.startswith("lgmnet test: there are no weights 'nothing'")
    assert call("measure", ["x.png", "--output", "y.png"], "measure.py") == 1
    assert capsys.readouterr().err == (
        "measure.py: --output y.png: a measurement is a .safetensors file\n"
    )


def test_the_list_has_all_shipped_weights_with_their_scores(capsys):
    assert main(["test", "--list"]) == 0
    text = capsys.readouterr().out
    for shipped in lgmnet.available():
        assert f"| {shipped.name} " in text
        for sets in shipped.psnr.values():
            for dataset, psnr in sets.items():
                assert f"{dataset} {psnr:.2f}" in text


def test_the_functions_of_the_package_are_listed_and_others_are_refused():
    assert set(lgmnet.__all__) <= set(dir(lgmnet))
    with pytest.raises(AttributeError, match="'lgmnet' has no attribute 'lode'"):
        _ = lgmnet.lode


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lgmnet {lgmnet.__version__}\n"
