"""Packs the shared YAML of ``conf/``, which stands at the top of the repository, into the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Copies ``conf/`` to ``asrkit/conf`` of what is built."""

    def run(self) -> None:
        """Builds, then copies."""
        super().run()
        if not self.editable_mode:
            source = Path(__file__).resolve().parent / "conf"
            shutil.copytree(source, Path(self.build_lib) / "asrkit" / "conf", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConf})
