"""Which disk holds a folder, and whether other machines write there."""

from pathlib import Path

import pytest

from launch.process.disks import file_system_of, is_network_disk, is_shared, kind_of
from tests.disks import small_disk

MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:40 / /home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2
41 40 0:41 / /home/local\\040disk rw - xfs /dev/sdb rw
42 27 0:42 / /scratch rw - lustre mgs@tcp:/scratch rw
43 42 0:43 / /scratch rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/var/x", "ext4"), ("/home", "nfs4"), ("/home/a/run", "nfs4"), ("/home/local disk/run", "xfs"), ("/homes", "ext4"),
     ("/scratch/run", "tmpfs")],
)  # fmt: skip
def test_the_deepest_and_last_mount_holds_a_path(path: str, kind: str) -> None:
    assert kind_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(("kind", "is_one"), [("nfs", True), ("nfs4", True), ("fuse.sshfs", True), ("ext4", False), ("", False)])
def test_network_disks(kind: str, is_one: bool) -> None:
    assert is_network_disk(kind) is is_one


def test_a_scheduler_shares_every_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert is_shared(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID")
    with small_disk(tmp_path / "small", "1m") as small:
        assert file_system_of(small) == "tmpfs"
        assert not is_shared(small)
