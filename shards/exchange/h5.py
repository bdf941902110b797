"""HDF5 files of other tools, and ours for them: `features` and `coords`, a row per patch.

    <slide>.h5   features (n, d) float32      attributes: name, encoder
                 coords   (n, 2) int64        attributes: patch_size, patch_size_level0, level0_width ...

The layout is TRIDENT's (github.com/mahmoodlab/TRIDENT, trident/IO.py: save_h5 and coords_to_h5), whose `coords` are left
and top edges in level-0 pixels. CLAM, and what reads CLAM's files, finds the same two data sets.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.errors import InputError
from shards.files import ask_for_space, whole_file

if TYPE_CHECKING:
    import h5py

Attributes = Mapping[str, str | int | float]


def write_h5(path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Attributes]) -> None:
    """Write arrays as data sets of those names, each with its attributes, whole or not at all; the same input, the same bytes.

    Raises:
        InputError: h5py is missing.
        OSError: the disk is full; it names the file.
    """
    h5py = _h5py()
    with whole_file(path) as temporary:
        with open(temporary, "wb") as file:  # HDF5's own error for a full disk names neither file nor reason
            ask_for_space(file, sum(array.nbytes for array in arrays.values()))
        with h5py.File(temporary, "w") as file:
            for name, array in arrays.items():
                dataset = file.create_dataset(name, data=array)
                for key, value in attributes.get(name, {}).items():
                    dataset.attrs[key] = value


@contextmanager
def open_h5(path: Path) -> Iterator["h5py.File"]:
    """Open an HDF5 file of somebody else for reading.

    Raises:
        InputError: h5py is missing, or it is no HDF5 file; also what h5py raises in the block on damaged data.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        words = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: cannot be read as HDF5 ({words}). Copy the file anew, or write it again") from None


def read_dataset(group: "h5py.Group", name: str, path: Path) -> np.ndarray:
    """Return a data set as an array of numbers.

    Raises:
        InputError: there is none of that name, it lies in another file, or it holds no numbers.
    """
    h5py = _h5py()
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Dataset):
        raise InputError(f"{path}: there is no data set {name!r}; it has: {', '.join(group) or 'nothing'}")
    dataset = group[name]
    if dataset.is_virtual or dataset.external:  # HDF5 would open whatever path the file names
        raise InputError(f"{path}: the numbers of {name!r} lie in another file: refused. Write them into this one")
    if dataset.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name!r} holds {dataset.dtype}, no numbers")
    array: np.ndarray = dataset[()]
    return array


def attributes_of(holder: Any) -> dict[str, Any]:
    """Return the attributes of a file or data set as Python's numbers, texts and lists."""
    found = {}
    for key, value in holder.attrs.items():
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        found[key] = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    return found


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError(
            "HDF5 files need the package h5py, which is not installed: pip install 'hnm[exchange]'"
        ) from None
    return h5py
