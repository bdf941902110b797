"""A real run on two ranks whose settings hold passwords and tokens: nothing that it writes or shows to `ps` has them."""

import base64
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hnm.config import read_config
from shards.cohort.cohort import Cohort
from tests.command_line import hnm as hnm_here
from tests.launch.process.test_local import TIMEOUT_S, hnm, start
from tests.shards.reading.test_remote import Handler, served
from tests.tiny import TINY
from tests.waiting import wait_for

LOGIN, TOKEN, JOB_TOKEN = "hunter2-of-the-url", "opensesame-of-the-options", "hf_of-the-setup-lines"
SECRETS = (LOGIN, TOKEN, JOB_TOKEN, base64.b64encode(f"me:{LOGIN}".encode()).decode())


class Guarded(Handler):
    """Serves only who has the login and the token."""

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        if self.headers.get("Authorization") == f"Basic {SECRETS[3]}" and self.headers.get("X-Token") == TOKEN:
            return super().do_GET()
        return self.answer(403, b"")


@contextmanager
def watched_processes() -> Iterator[set[str]]:
    """Yield the command lines of this machine's processes that show a secret, looked at again and again."""
    leaking: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:  # it has ended
                    continue
                leaking.update([words] if any(secret in words for secret in SECRETS) else [])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield leaking
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
def test_a_run_with_secrets_in_its_settings_writes_none_and_goes_on_without_being_told_again(
    tmp_path: Path, tiny_cohort: Path, tracking_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    cohort, run = tmp_path / "cohort", tmp_path / "run"
    shutil.copytree(tiny_cohort, cohort)
    shutil.copy(tracking_database, tmp_path)
    mine = tmp_path / "home" / "mine.yaml"
    mine.parent.mkdir()
    mine.write_text(
        f"reader: {{storage_options: {{client_kwargs: {{headers: {{X-Token: {TOKEN}}}}}}}}}\n"
        f"slurm: {{setup: [export HF_TOKEN={JOB_TOKEN}]}}\n"
    )
    with served(Cohort.open(cohort)) as (server, url):
        server.RequestHandlerClass = Guarded
        words = [*TINY, "tracking.enabled=true", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "rounds.num_rounds=1"]
        words.append(f"reader.shards_url={url.replace('://', f'://me:{LOGIN}@')}")
        process = start("train", cohort, run, "--preset", "hnm", "--config", mine, "--ranks", "2", *words, cwd=tmp_path)
        wait_for(run / "config.yaml", process)  # it has begun itself anew, without its secrets
        with watched_processes() as leaking:
            output, _ = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, output
            num_requests = server.num_requests
            evaluated = hnm("evaluate", run, cwd=tmp_path)
            assert evaluated.returncode == 0, evaluated.stderr
        assert leaking == set()
        assert server.num_requests > num_requests > 0
        shutil.copytree(run, tmp_path / "copy")  # as a colleague gets it: a home of theirs does not know
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "theirs"))
        (tmp_path / "copy" / "metrics.json").unlink()
        refused = hnm_here("evaluate", tmp_path / "copy")
        assert refused.exit_code == 1
        assert "what *** stands for is in no file of a run" in refused.stderr
    assert f"{url.replace('://', '://***@')}" in (run / "config.yaml").read_text()
    assert "HF_TOKEN=***" in (run / "config.yaml").read_text()
    assert read_config(run / "config.yaml").reader.storage_options.is_hidden
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "home" not in path.parts]
    assert {"events.jsonl", "state.json", "rank-001.log", "mlflow.db", "report.html", "MODEL.md"} <= {path.name for path in files}
    assert any("mlartifacts" in path.parts for path in files)
    said = output + evaluated.stdout + evaluated.stderr + refused.stdout + refused.stderr
    for secret in SECRETS:
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
        assert secret not in said
