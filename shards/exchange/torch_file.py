"""A file that torch.save has written, read without running any code that it may hold.

Plain are tensors, and NumPy's arrays of numbers: TRIDENT's .pt files of features are arrays (trident/wsi_objects/WSI.py:
torch.save(features, ...) of a concatenation by NumPy). Anything else that a pickle would build is refused by its name.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import InputError

NUMBERS = "efdbhilqBHILQ?"  # kinds of NumPy's numbers, by character
MAKERS = ("_reconstruct", "scalar")  # what a pickled array and number name; NumPy 1 and 2 have them in different modules


def load_plain(path: Path, remedy: str) -> Any:
    """Return what a file holds, with tensors in the place of arrays.

    Args:
        remedy: what the user can do about a file that is refused, the end of the message.

    Raises:
        InputError: it is no file of torch's, is damaged, or holds more than plain numbers.
    """
    import torch  # 2 s, that only these files need

    multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]
    makers = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}") for name in MAKERS for core in ("core", "_core")
    ]
    types: list[Any] = [np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in NUMBERS}]
    empty = [(bytes, "builtins.bytes"), (bytes, "__builtin__.bytes")]  # the data of an array without rows
    try:
        with torch.serialization.safe_globals([*makers, *types, *empty]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        return _as_tensors(content)
    except Exception as error:  # a strange file raises anything: UnpicklingError, OSError, RuntimeError, KeyError...
        raise InputError(f"{path}: refused, not a whole file of plain tensors ({_reason(error)}). {remedy}") from error


def _as_tensors(content: Any) -> Any:
    import torch

    if isinstance(content, np.ndarray):
        return torch.from_numpy(content)
    if isinstance(content, Mapping):
        return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in content.items()}
    return content


def _reason(error: Exception) -> str:
    """Return why torch refused, in a line, without its advice to switch the safety off."""
    if (found := re.search(r"GLOBAL (\S+)", str(error))) is not None:
        return f"it would run {found[1]}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
