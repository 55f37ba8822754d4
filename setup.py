"""Puts what an installed megachar needs of the checkout's other folders into the package; pyproject.toml says the rest.

An editable installation finds those folders where they are (`megachar.base.resources`).
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RESOURCES = ("ds_configs/*.json", "launcher/*.py", "launcher/slurm.sh")


class BuildWithResources(build_py):
    """The package, and the resources in folders of their own names inside it."""

    def run(self) -> None:
        """Build; an editable installation takes everything from the checkout."""
        super().run()
        if self.editable_mode:
            return
        for path in (path for pattern in RESOURCES for path in sorted(Path().glob(pattern))):
            target = Path(self.build_lib, "megachar", path)
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": BuildWithResources})
