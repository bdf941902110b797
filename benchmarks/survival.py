"""Kill a training on 2 ranks at random moments, run the same command again, and compare every result byte by byte.

    python -m benchmarks.survival --kills 50                 24 slides of the demo's kind, a short configuration, all phases
    python -m benchmarks.survival --kills 50 --slides 80     the demo's whole cohort: three times as long
    python -m benchmarks.survival --quick                    5 kills

Each kill is SIGKILL of a random rank or of the launcher. A run is killed once in each of its phases, from the start of its
processes over pretraining and all rounds to the evaluation, at a moment drawn from the time that the phase took undisturbed
(a short one may be over by then: `kills_by_phase` counts what the heartbeats said); after each kill the same command goes on.
Then it is finished and compared, and the next run is begun, until the kills are used up; if fewer are left than there are
phases, these are drawn. The last line is one JSON object; the exit code is 1 if a single byte differs. Compared: all files of
the run but logs, times and the machine's description; of metrics.json all but the seconds.
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
from typing import Any

from benchmarks.about import about
from hnm.report.record import read_events
from hnm.run.heartbeat import read_beats
from hnm.run.phase import read_state
from launch.verbs.demo import draw_slides
from shards.files import write_json

ROOT = Path(__file__).parents[1]
CLOCKED = ("state.json", "events.jsonl", "environment.json")
SHORT = ["--config", "demo", "device=cpu", "tracking.enabled=false", "encoder.width=0.125", "pretrain.epochs=1",
         "pretrain.augment.recipe=weak", "finetune.augment.recipe=weak", "finetune.epochs_per_round=1",
         "aggregate.epochs=4", "aggregate.pairs_per_step=4", "rounds.embed_batch_size=64",
         "finetune.batch_size=32", "mining.neg_ratio=0.2", "checkpoint.every_steps=2"]  # fmt: skip
ATTEMPT_S = 300.0
START_S = 4.0  # the processes begin, meet, and open the cohort

Phase = dict[str, Any]  # {"phase": "embed", "round": 0, "seconds": 1.5}


@dataclass
class Trial:
    """One way of training on a cohort: the command line after `hnm train COHORT RUN`, and where kills hit it."""

    cohort: Path
    options: list[str]
    chance: random.Random
    phases: list[Phase] = field(default_factory=list)
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

    def finish(self, verb: str, run: Path) -> None:
        """Train or evaluate to the end, undisturbed."""
        self._require_success(self.start(verb, run).wait(ATTEMPT_S), verb, run)

    def undisturbed(self, run: Path) -> float:
        """Train and evaluate, note the phases, and return the seconds that it took."""
        begin = time.monotonic()
        for verb in ("train", "evaluate"):
            self.finish(verb, run)
        self.phases = [{"phase": "start", "round": None, "seconds": START_S}, *read_state(run)["phases"]]
        return time.monotonic() - begin

    def disturb(self, run: Path, num_kills: int) -> int:
        """Train and evaluate a run, killed once in each phase or in `num_kills` of them; return how many kills hit it."""
        drawn = sorted(self.chance.sample(range(len(self.phases)), min(num_kills, len(self.phases))))
        kills = sum(self.attempt(run, number) for number in drawn)
        for verb in ("train", "evaluate"):
            self.finish(verb, run)
        return kills

    def attempt(self, run: Path, number: int) -> bool:
        """Run the command until a random moment of a phase, or of the later one that it is at then, and kill it.

        Returns:
            False: it has ended by itself before.
        """
        verb = "evaluate" if self.phases[number]["phase"] == "evaluate" else "train"
        if verb == "evaluate":
            self.finish("train", run)
        process = self.start(verb, run)
        deadline = time.monotonic() + ATTEMPT_S
        while process.poll() is None and self.place(process, run) < number:
            if time.monotonic() > deadline:
                raise RuntimeError(f"hnm {verb} did not come to {self.phases[number]}")
            time.sleep(0.005)
        moment = time.monotonic() + self.chance.uniform(0.0, self.phases[number]["seconds"])
        while process.poll() is None and time.monotonic() < moment:
            time.sleep(0.002)
        if process.poll() is not None:
            self._require_success(process.returncode, verb, run)
            return False
        self.kill(process, run)
        return True

    def place(self, process: subprocess.Popen[bytes], run: Path) -> int:
        """Return which phase the ranks of a launcher are at, by rank 0's heartbeat; those of earlier processes don't count."""
        now = [beat for beat in read_beats(run / "log")[:1] if beat["pid"] in children(process.pid)]
        at = [(phase["phase"], phase["round"]) for phase in self.phases]
        return at.index((now[0]["phase"], now[0]["round"])) if now else 0

    def kill(self, process: subprocess.Popen[bytes], run: Path) -> None:
        """Kill a rank or the launcher, and wait until all are gone."""
        ranks = children(process.pid)
        victim = self.chance.choice(["launcher", *(f"rank {i}" for i in range(len(ranks)))])
        self.hits[self.phases[self.place(process, run)]["phase"]] += 1
        self.victims[victim] += 1
        os.kill(process.pid if victim == "launcher" else ranks[int(victim[-1])], signal.SIGKILL)
        process.wait(ATTEMPT_S)
        deadline = time.monotonic() + ATTEMPT_S
        while any(Path(f"/proc/{pid}").exists() for pid in ranks):  # orphans die with their launcher
            if time.monotonic() > deadline:
                raise RuntimeError(f"a rank outlives its launcher: one of the processes {ranks}")
            time.sleep(0.02)

    def _require_success(self, code: int, verb: str, run: Path) -> None:
        if code:
            raise RuntimeError(f"hnm {verb} ended with {code}:\n{run.with_suffix('.log').read_text()[-3000:]}")


def children(pid: int) -> list[int]:
    """Return the children of a process, in the order of their start: the ranks. None if it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


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
        num_kills: how many.
    """
    trial = Trial(cohort, options, random.Random(num_kills))
    begin = time.monotonic()
    undisturbed_s = trial.undisturbed(folder / "undisturbed")
    expected = results(folder / "undisturbed")
    kills, runs, resumed, differing = 0, 0, 0, set()
    while kills < num_kills:
        run = folder / f"killed-{runs}"
        kills += trial.disturb(run, num_kills - kills)
        differing |= {name for name, _ in results(run).items() ^ expected.items()}
        resumed += sum(event["event"] == "resumed" for event in read_events(run / "events.jsonl"))
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
        "trainings_resumed_from_a_checkpoint": resumed,
        "seconds_undisturbed": round(undisturbed_s, 1),
        "seconds": round(time.monotonic() - begin, 1),
    }


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--slides", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="5 kills")
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slides = draw_slides(Path(folder) / "slides", arguments.slides)
        tile = [sys.executable, "-m", "launch.cli", "tile", str(slides), f"{folder}/cohort", "--config", "demo"]
        subprocess.run(tile, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)})
        num_kills = 5 if arguments.quick else arguments.kills
        head = {**about("survival", arguments.quick, ("torch", "numpy")), "slides": arguments.slides}
        result = {**head, **survive(Path(folder) / "cohort", Path(folder), SHORT, num_kills)}
    print(json.dumps(result))
    if arguments.out:
        write_json(arguments.out, result)
    return 0 if result["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
