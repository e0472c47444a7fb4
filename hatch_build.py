"""
Builds the compiled core where a C compiler is at hand; without one the package is pure Python and does the same, slower.

`PENSTOCK_BUILD_COMPILED=never` builds none, `always` fails when it cannot be built.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension

_FOLDER = "src/penstock/compiled"
_PACKAGE = "penstock.compiled"
_NAMES = ("stream", "copying")


class CompiledCoreHook(BuildHookInterface[Any]):
    """
    Compiles the core's modules and adds them to a wheel, or lays them beside their sources for an editable installation.
    """

    PLUGIN_NAME = "custom"
    _folder: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """
        Build what can be built; `version` is `standard` or `editable`.
        """
        wanted = os.environ.get("PENSTOCK_BUILD_COMPILED", "auto")
        if self.target_name != "wheel" or wanted == "never":
            return
        try:
            built = self._compile()
        except (Exception, SystemExit) as problem:  # whatever a compiler's driver raises
            if wanted == "always":
                raise
            self.app.display_warning(f"the compiled core was not built, Penstock will run in pure Python: {problem}")
            return
        for each in built:
            if version == "editable":
                # Replaced and not written over: a running process may have it mapped.
                _put_in_place(each, Path(self.root, _FOLDER, each.name))
            else:
                build_data["force_include"][str(each)] = f"penstock/compiled/{each.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - not asked for
        """
        Remove what the compiler left, when the wheel has been written.
        """
        if self._folder is not None:
            shutil.rmtree(self._folder)

    def _compile(self) -> list[Path]:
        """
        Translate and compile into a temporary folder; give the libraries.
        """
        folder = self._folder = tempfile.mkdtemp(prefix="penstock-build-")
        extensions = [
            Extension(
                f"{_PACKAGE}.{name}", [str(Path(self.root, _FOLDER, f"{name}.pyx"))], extra_compile_args=["-O3", "-g0"]
            )
            for name in _NAMES
        ]
        modules = cythonize(extensions, build_dir=folder, quiet=True)
        distribution = Distribution({"name": "penstock", "ext_modules": modules})
        command = distribution.get_command_obj("build_ext")
        command.build_lib = f"{folder}/lib"
        command.build_temp = f"{folder}/temp"
        command.ensure_finalized()
        command.run()
        built = sorted(Path(folder, "lib").rglob("*.so"))
        assert len(built) == len(_NAMES), "a module was not built"
        return built


def _put_in_place(built: Path, target: Path) -> None:
    """
    Copy a file to where it belongs; it appears there whole.
    """
    beside = target.with_name(f".{target.name}.new")
    beside.write_bytes(built.read_bytes())
    beside.chmod(0o755)
    beside.replace(target)
