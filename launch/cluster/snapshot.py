"""The code that a job runs: a copy taken when it is submitted, so that later edits do not reach a job that is requeued."""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hnm
import launch
import shards
from hnm.installed import COMMIT_FILE, commit_of_code, config_folder

COMPILED = {".pyc", ".pyo"}  # all else is copied: modules, configurations, templates


@dataclass(frozen=True)
class Code:
    """The packages and configurations of the running program.

    Attributes:
        name: made from the contents; the same code has the same name.
        contents: by path below the folder that goes on PYTHONPATH; COMMIT says which commit it is.
        commit: of the files, "unknown" where they are no checkout.
    """

    name: str
    contents: dict[Path, bytes]
    commit: str

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
    contents = {to: path.read_bytes() for to, path in sorted(files.items()) if path.suffix not in COMPILED and path.is_file()}
    commit = commit_of_code()
    if commit is not None:
        contents[Path(COMMIT_FILE)] = f"{commit}\n".encode()
    digest = hashlib.sha256()
    for path, content in contents.items():
        digest.update(f"{path} {len(content)}\n".encode() + content)
    return Code(f"code-{digest.hexdigest()[:12]}", contents, commit or "unknown")
