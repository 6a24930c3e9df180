"""What pyproject.toml cannot say: a wheel has weights and configs within the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithShipped(build_py):
    """An editable install finds them in the clone, so nothing is copied for it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for file in shipped():
                target = Path(self.build_lib, "lgmnet", file)
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))

    def get_source_files(self) -> list[str]:
        """What a source distribution needs."""
        return [*super().get_source_files(), *map(str, shipped())]


def shipped() -> list[Path]:
    """All configs, and the weights that SHA256SUMS lists: not those of others beside them."""
    sums = Path("checkpoints", "SHA256SUMS")
    listed = [line.split()[1] for line in sums.read_text(encoding="utf-8").splitlines()]
    folders = [Path("configs"), *(sums.parent / Path(file).parent for file in listed)]
    return [sums, *(file for folder in folders for file in folder.rglob("*") if file.is_file())]


setup(cmdclass={"build_py": BuildWithShipped})
