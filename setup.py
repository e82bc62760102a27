"""Packs the shared YAML of ``conf/`` into the package, and compiles its C where there is a compiler."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Copies ``conf/`` to ``asrkit/conf`` of what is built."""

    def run(self) -> None:
        """Builds, then copies."""
        super().run()
        if not self.editable_mode:
            source = Path(__file__).resolve().parent / "conf"
            shutil.copytree(source, Path(self.build_lib) / "asrkit" / "conf", dirs_exist_ok=True)


W4A4 = Extension(
    "asrkit.quantization.kernels._w4a4",
    ["asrkit/quantization/kernels/w4a4.c"],
    extra_compile_args=["-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math"],
    optional=True,
)

setup(cmdclass={"build_py": BuildWithConf}, ext_modules=[W4A4])
