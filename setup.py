"""Copy weights, configs and lists of data sets into a wheel, which pyproject.toml cannot do."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithShipped(build_py):
    """For an editable install nothing is copied, because the files are in the clone."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for file in shipped():
                target = Path(self.build_lib, "lgmnet", file)
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))

    def get_source_files(self) -> list[str]:
        """The files of a source distribution."""
        return [*super().get_source_files(), *map(str, shipped())]


def shipped() -> list[Path]:
    """All configs and lists of data sets, and the weights in SHA256SUMS and no others."""
    sums = Path("checkpoints", "SHA256SUMS")
    listed = [line.split()[1] for line in sums.read_text(encoding="utf-8").splitlines()]
    folders = [
        Path("configs"),
        Path("data", "checksums"),
        *(sums.parent / Path(file).parent for file in listed),
    ]
    return [sums, *(file for folder in folders for file in folder.rglob("*") if file.is_file())]


setup(cmdclass={"build_py": BuildWithShipped})
