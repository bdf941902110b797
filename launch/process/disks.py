"""What kind of disk a folder is on, as the kernel lists its mounts: one of this machine, or one that others write, too."""

from pathlib import Path

from launch.process.distributed import is_under_scheduler

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "9p", "afs", "panfs", "pvfs", "virtiofs")


def is_shared(folder: Path) -> bool:
    """May other machines write in `folder`? So it is taken to be under a scheduler, whatever the disk is called."""
    return is_under_scheduler() or is_network_disk(file_system_of(folder))


def is_network_disk(kind: str) -> bool:
    """Is it a file system of several machines? Those of user processes (fuse.*) mostly are."""
    return kind.startswith((*NETWORK, "fuse."))


def file_system_of(folder: Path) -> str:
    """Return the kind of file system that holds `folder`, such as nfs4 or ext4; "" where the kernel does not list mounts."""
    if not MOUNTS.is_file():
        return ""
    return kind_of(folder.resolve(), MOUNTS.read_text(encoding="utf-8", errors="replace"))


def kind_of(path: Path, mounts: str) -> str:
    """Return the kind of the mount that holds an absolute path; of several at one place, the last covers the others.

    Args:
        path: without links.
        mounts: as /proc/self/mountinfo (man proc): "36 35 98:0 / /mnt/a\\040b rw,noatime shared:1 - ext4 /dev/sda rw".
    """
    deepest, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        place = Path(before.split()[4].replace("\\040", " "))
        if path.is_relative_to(place) and len(place.parts) >= deepest:
            deepest, kind = len(place.parts), after.split()[0]
    return kind
