"""The code that a job runs: a copy taken when it is submitted, so that later edits do not reach a job that is requeued."""

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import hnm
import launch
import shards
from hnm.config import config_folder

COPIED = {".py", ".yaml", ".json"}


@dataclass(frozen=True)
class Code:
    """The packages and configurations of the running program.

    Attributes:
        name: made from the contents; the same code has the same name.
        contents: by path below the folder that goes on PYTHONPATH.
    """

    name: str
    contents: dict[Path, bytes]

    def write(self, folder: Path) -> Path:
        """Write the files to folder/name, whole or not at all, and return it; what is there already is kept."""
        final = folder / self.name
        if final.is_dir():
            return final
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".code-", dir=folder))
        temporary.chmod(0o755)
        for path, content in self.contents.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_bytes(content)
        try:
            temporary.rename(final)
        except OSError:  # another submission has just made the same
            shutil.rmtree(temporary)
        return final


def read_code() -> Code:
    """Read the running program's files."""
    roots = {Path(package.__name__): Path(package.__file__ or "").parent for package in (hnm, launch, shards)}
    roots[Path("hnm/configs")] = config_folder()
    files = {to / path.relative_to(root): path for to, root in roots.items() for path in root.rglob("*")}
    contents = {to: path.read_bytes() for to, path in sorted(files.items()) if path.suffix in COPIED and path.is_file()}
    digest = hashlib.sha256()
    for path, content in contents.items():
        digest.update(f"{path} {len(content)}\n".encode() + content)
    return Code(f"code-{digest.hexdigest()[:12]}", contents)


def commit_of_code(root: Path | None = None) -> str:
    """Return the git commit of the code, with "+changes" where files differ from it, or the installed version.

    Args:
        root: the folder that holds the packages; None: of the running code.
    """
    root = (root or Path(launch.__file__ or "").parents[1]).resolve()
    git = ("git", "-C", str(root))
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True, check=True)
        folder, commit = top.stdout.split("\n")[:2]
        if Path(folder) == root:  # else: installed below a folder of somebody's own repository
            packages = ("hnm", "launch", "shards", "configs")
            changed = subprocess.run([*git, "status", "--porcelain", "--", *packages], capture_output=True, check=True)
            return commit + ("+changes" if changed.stdout else "")
    except (OSError, subprocess.CalledProcessError):
        pass  # no git, or no checkout: the installed version names the code
    try:
        return f"hnm {metadata.version('hnm')}"
    except metadata.PackageNotFoundError:
        return "unknown"
