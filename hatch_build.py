"""Compiles the CPU kernels when the package is built or installed in place; without a compiler, the first use tries."""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("services/engine/sagellm_engine/native")


class NativeBuildHook(BuildHookInterface[Any]):
    """Puts the library beside the package's sources, and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the library of these sources is there; a wheel with it is for this platform alone."""
        folder = Path(self.root) / NATIVE
        spec = importlib.util.spec_from_file_location("sagellm_native_build", folder / "build.py")
        assert spec is not None
        assert spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        library = folder / "lib" / f"{build.source_hash()}.so"
        if not library.is_file():
            try:
                build.build(library)
            except build.BuildError as error:
                self.app.display_warning(f"The CPU kernels are left out: {error}")
                return
        for other in library.parent.glob("*.so"):
            if other != library:
                other.unlink()
        build_data["artifacts"].append(str(NATIVE / "lib" / "*.so"))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
