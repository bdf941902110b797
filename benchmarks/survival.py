"""Kill a training on 2 ranks at random moments, run the same command again, and compare every result byte by byte.

    python -m benchmarks.survival --kills 50                 24 slides of the demo's kind, a short configuration, all phases
    python -m benchmarks.survival --kills 50 --slides 80     the demo's whole cohort: three times as long
    python -m benchmarks.survival --quick                    5 kills

Each kill is SIGKILL of a random rank or of the launcher. When a run is finished and evaluated it is compared, and a new one is
begun, until the kills are used up; the last run is then finished undisturbed. The last line is one JSON object; the exit
code is 1 if a single byte differs. Compared: all files of the run but logs, times and the machine's description; of
metrics.json all but the seconds.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.about import about
from launch.demo import draw_slides
from launch.heartbeat import read_beats

ROOT = Path(__file__).parents[1]
CLOCKED = ("state.json", "events.jsonl", "environment.json")
SHORT = ["--config", "demo", "device=cpu", "tracking.enabled=false", "encoder.width=0.125", "pretrain.epochs=1",
         "pretrain.augment.recipe=weak", "finetune.augment.recipe=weak", "finetune.epochs_per_round=1",
         "aggregate.epochs=4", "aggregate.pairs_per_step=4", "rounds.embed_batch_size=64",
         "finetune.batch_size=32", "checkpoint.every_steps=2"]  # fmt: skip
ATTEMPT_S = 300.0


@dataclass
class Trial:
    """One way of training on a cohort: the command line after `hnm train COHORT RUN`, and where kills hit it."""

    cohort: Path
    options: list[str]
    chance: random.Random
    hits: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)

    def start(self, verb: str, run: Path) -> subprocess.Popen[bytes]:
        """Start `hnm train` or `hnm evaluate` on 2 ranks; output goes to RUN.log."""
        arguments = ["train", self.cohort, run, *self.options] if verb == "train" else ["evaluate", run, "--no-report"]
        command = [sys.executable, "-m", "launch.cli", *map(str, arguments), "--ranks", "2"]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        with open(run.with_suffix(".log"), "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def finish(self, run: Path) -> None:
        """Train and evaluate undisturbed."""
        for verb in ("train", "evaluate"):
            code = self.start(verb, run).wait(ATTEMPT_S)
            if code:
                raise RuntimeError(f"hnm {verb} ended with {code}:\n{run.with_suffix('.log').read_text()[-3000:]}")

    def disturb(self, run: Path, num_kills: int, seconds: float) -> int:
        """Train and evaluate, killing each attempt after up to `seconds` of work.

        Returns:
            The number of kills made when all was done, `num_kills` at most.
        """
        kills = 0
        for verb in ("train", "evaluate"):
            while kills < num_kills:
                process = self.start(verb, run)
                if self.kill(process, run, self.chance.uniform(0.0, seconds)):
                    kills += 1
                elif process.returncode == 0:
                    break  # it was done before its time came
                else:
                    raise RuntimeError(f"hnm {verb} failed:\n{run.with_suffix('.log').read_text()[-3000:]}")
        return kills

    def kill(self, process: subprocess.Popen[bytes], run: Path, after_s: float) -> bool:
        """Kill a rank or the launcher `after_s` seconds after the ranks have begun; False: it has ended by itself."""
        known = {path: path.stat().st_mtime_ns for path in run.glob("log/heartbeat-*.json")}
        deadline = time.monotonic() + ATTEMPT_S
        while process.poll() is None and time.monotonic() < deadline and not _fresh(run, known):
            time.sleep(0.02)
        end = time.monotonic() + after_s
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        if process.poll() is not None:
            return False
        ranks = _children(process.pid)
        victim = self.chance.choice(["launcher", *(f"rank {i}" for i in range(len(ranks)))])
        beats = read_beats(run / "log")
        os.kill(process.pid if victim == "launcher" else ranks[int(victim[-1])], signal.SIGKILL)
        self.victims[victim] += 1
        self.hits[beats[0]["phase"] if beats else "start"] += 1
        process.wait(ATTEMPT_S)
        while any(Path(f"/proc/{pid}").exists() for pid in ranks):  # orphans die with their launcher
            if time.monotonic() > deadline:
                raise RuntimeError(f"a rank outlives its launcher: one of the processes {ranks}")
            time.sleep(0.02)
        return True


def _fresh(run: Path, known: dict[Path, int]) -> bool:
    """Return whether a rank has written a heartbeat since `known`."""
    return any(path.stat().st_mtime_ns != known.get(path) for path in run.glob("log/heartbeat-*.json"))


def _children(pid: int) -> list[int]:
    """Return the children of a process, in the order of their start: the ranks."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def results(run: Path) -> dict[str, str]:
    """Return a hash of every result of a run, by relative path."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and path.name not in CLOCKED and not name.startswith("log/"):
            content = path.read_bytes()
            if name == "metrics.json":
                content = json.dumps({**json.loads(content), "seconds": 0}).encode()
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def survive(cohort: Path, folder: Path, options: list[str], num_kills: int) -> dict[str, object]:
    """Run the trial and return its figures.

    Args:
        cohort: the cohort.
        folder: where runs are made.
        options: the command line after `hnm train COHORT RUN`.
        num_kills: how many; between two there is up to a sixth of the time that the undisturbed run took.
    """
    trial = Trial(cohort, options, random.Random(num_kills))
    begin = time.monotonic()
    trial.finish(folder / "undisturbed")
    undisturbed_s = time.monotonic() - begin
    expected = results(folder / "undisturbed")
    kills, runs, differing = 0, 0, set()
    while kills < num_kills:
        run = folder / f"killed-{runs}"
        kills += trial.disturb(run, num_kills - kills, undisturbed_s / 6)
        trial.finish(run)
        differing |= {name for name, _ in results(run).items() ^ expected.items()}
        runs += 1
        print(f"{kills} kills, {runs} runs, {len(differing)} files differ", file=sys.stderr, flush=True)
    return {
        "kills": kills,
        "identical": not differing,
        "runs_compared": runs,
        "files_compared": len(expected),
        "files_that_differ": sorted(differing),
        "kills_by_phase": dict(trial.hits),
        "kills_by_victim": dict(trial.victims),
        "seconds_undisturbed": round(undisturbed_s, 1),
        "seconds": round(time.monotonic() - begin, 1),
    }


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--slides", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="5 kills")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slides = draw_slides(Path(folder) / "slides", arguments.slides)
        tile = [sys.executable, "-m", "launch.cli", "tile", str(slides), f"{folder}/cohort", "--config", "demo"]
        subprocess.run(tile, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)})
        num_kills = 5 if arguments.quick else arguments.kills
        figures = survive(Path(folder) / "cohort", Path(folder), SHORT, num_kills)
    print(json.dumps({**about("survival", arguments.quick, ("torch", "numpy")), "slides": arguments.slides, **figures}))
    return 0 if figures["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
