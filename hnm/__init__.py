"""The algorithm: encoder, aggregator, mining, fine-tuning, and the round loop that ties them together.

`import hnm` gives the Python face (hnm/face/): open_run, open_cohort, load_encoder, embed. What a name stands for is imported
when it is first used, so that the import itself is fast and takes no torch along. hnm/__init__.pyi tells type checkers the same.
"""

from importlib import import_module
from typing import Any

PLACES = {
    "open_cohort": "hnm.face.cohort",
    "OpenCohort": "hnm.face.cohort",
    "open_run": "hnm.face.run",
    "OpenRun": "hnm.face.run",
    "SlideScores": "hnm.face.run",
    "load_encoder": "hnm.face.encoder",
    "PatchEncoder": "hnm.face.encoder",
    "embed": "hnm.face.encoder",
    "InputError": "shards.errors",
}
__all__ = list(PLACES)


def __getattr__(name: str) -> Any:
    """Import what a name stands for, once."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("hnm")
    elif name in PLACES:
        value = getattr(import_module(PLACES[name]), name)
    else:
        raise AttributeError(f"module 'hnm' has no attribute {name!r}; it has {', '.join(PLACES)}, __version__")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *PLACES, "__version__"]
