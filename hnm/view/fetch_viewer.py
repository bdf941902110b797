"""Fetch OpenSeadragon (BSD), the viewer of `hnm view`, into this folder: `python -m hnm.view.fetch_viewer`.

package-lock.json ──address, SHA-512──▶ the npm registry ──checked──▶ openseadragon/ (script and licence; never committed)

The build of a wheel does it, too (setup.py), so that whoever installs the wheel has it. Only Python's own library is used.
"""

import base64
import hashlib
import io
import json
import sys
import tarfile
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
FOLDER, LOCK = HERE / "openseadragon", HERE / "package-lock.json"
MEMBERS = {  # of the npm package, and what they are called here
    "package/build/openseadragon/openseadragon.min.js": "openseadragon.min.js",
    "package/LICENSE.txt": "LICENSE.txt",
}
TIMEOUT_S = 30.0


def is_fetched(folder: Path = FOLDER) -> bool:
    """Return whether all of it is there."""
    return all((folder / name).is_file() for name in MEMBERS.values())


def fetch(folder: Path = FOLDER) -> Path:
    """Fetch the version that package-lock.json states into `folder`, and return it.

    Raises:
        OSError: the registry does not answer.
        ValueError: what it gave is not what the lock file says.
    """
    locked = json.loads(LOCK.read_text(encoding="utf-8"))["packages"]["node_modules/openseadragon"]
    with urllib.request.urlopen(locked["resolved"], timeout=TIMEOUT_S) as answer:
        unpack(answer.read(), locked["integrity"], folder)
    return folder


def unpack(package: bytes, integrity: str, folder: Path) -> None:
    """Write the members that are used of an npm package (.tgz) into `folder`, once its hash is right.

    Raises:
        ValueError: it is another, or lacks a file.
    """
    digest = "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()
    if digest != integrity:
        raise ValueError(f"OpenSeadragon: the registry's package has {digest}, {LOCK.name} says {integrity}: not used")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for member, name in MEMBERS.items():
            file = archive.extractfile(member)
            if file is None:
                raise ValueError(f"OpenSeadragon: there is no {member} in the package")
            temporary = folder / f".{name}.tmp"
            temporary.write_bytes(file.read())
            temporary.replace(folder / name)


if __name__ == "__main__":
    try:
        print(f"wrote {fetch()}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: OpenSeadragon could not be fetched: {error}. Without it hnm view has a plain viewer")
