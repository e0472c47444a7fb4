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

_SOURCE = "src/penstock/compiled/stream.pyx"
_MODULE = "penstock.compiled.stream"


class CompiledCoreHook(BuildHookInterface[Any]):
    """
    Compiles one module and adds it to a wheel, or lays it beside its source for an editable installation.
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
        if version == "editable":
            target = Path(self.root, _SOURCE).parent / built.name
            # Replaced and not written over: a running process may have it mapped.
            _put_in_place(built, target)
        else:
            build_data["force_include"][str(built)] = f"penstock/compiled/{built.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - not asked for
        """
        Remove what the compiler left, when the wheel has been written.
        """
        if self._folder is not None:
            shutil.rmtree(self._folder)

    def _compile(self) -> Path:
        """
        Translate and compile into a temporary folder; give the library.
        """
        folder = self._folder = tempfile.mkdtemp(prefix="penstock-build-")
        extension = Extension(_MODULE, [str(Path(self.root, _SOURCE))], extra_compile_args=["-O3", "-g0"])
        modules = cythonize([extension], build_dir=folder, quiet=True)
        distribution = Distribution({"name": "penstock", "ext_modules": modules})
        command = distribution.get_command_obj("build_ext")
        command.build_lib = f"{folder}/lib"
        command.build_temp = f"{folder}/temp"
        command.ensure_finalized()
        command.run()
        [built] = Path(folder, "lib").rglob("stream*.so")
        return built


def _put_in_place(built: Path, target: Path) -> None:
    """
    Copy a file to where it belongs; it appears there whole.
    """
    beside = target.with_name(f".{target.name}.new")
    beside.write_bytes(built.read_bytes())
    beside.chmod(0o755)
    beside.replace(target)
