"""Cohorts of drawn whole slides for tests, and ways to start and compare tilings."""

import hashlib
import subprocess
import sys
from pathlib import Path

from shards.drawn_slides import make_whole_slides

ROOT = Path(__file__).parents[2]

# `hnm tile` without the training side, whose imports take seconds: a process that is to be killed at any moment.
TILE_SCRIPT = """
import sys
from pathlib import Path
from shards.tile import tile_cohort
from shards.tile_config import TileConfig
if __name__ == "__main__":
    config = TileConfig(patch_px=32, mpp=0.5, background="otsu_saturation", shard_mb=1)
    print("begins", flush=True)
    summary = tile_cohort(Path(sys.argv[1]), Path(sys.argv[2]), config, num_workers=int(sys.argv[3]))
    print(summary.num_tiled)
"""


def twelve_slides(folder: Path) -> Path:
    """Draw 12 whole slides of 512 px."""
    return make_whole_slides(folder, 12, 512, 32, seed=0)


def start_tiling(slides_csv: Path, cohort: Path, num_workers: int) -> subprocess.Popen[str]:
    """Start a tiling in a process of its own, and return when its work begins."""
    script = cohort.parent / "tile_script.py"
    if not script.exists():
        script.write_text(TILE_SCRIPT)
    command = [sys.executable, str(script), str(slides_csv), str(cohort), str(num_workers)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    return process


def digests(folder: Path) -> dict[str, str]:
    """Return a hash of each file below a folder, by relative path: all files, also hidden and temporary ones."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
