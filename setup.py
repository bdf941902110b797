"""Everything is said in setup.cfg; the build only puts the viewer of `hnm view` beside the package's own files first."""

import importlib.util
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithViewer(build_py):
    """Fetches OpenSeadragon, whose version and hash hnm/view/package-lock.json states, unless it is there."""

    def run(self) -> None:
        """Fetch and build; without a network the viewer is a plain one, and that is said."""
        source = Path(__file__).parent / "hnm" / "view" / "fetch_viewer.py"
        spec = importlib.util.spec_from_file_location("fetch_viewer", source)
        viewer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(viewer)
        if not viewer.is_fetched():
            try:
                viewer.fetch()
            except OSError as error:  # a wrong hash is no such error: it ends the build
                print(f"warning: OpenSeadragon was not fetched ({error}): hnm view will have a plain viewer", file=sys.stderr)
        super().run()


setup(cmdclass={"build_py": BuildWithViewer})
