"""What `hnm view` does: the slides of a run to walk through, from a folder or from a server that this machine alone reaches."""

import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hnm.config import Config
from hnm.evidence.evaluate_targets import config_of_target
from hnm.report.record import RunRecord, read_record
from hnm.run.study import Study, open_study
from hnm.run_rounds import home_of
from hnm.target_rounds import target_folders
from hnm.view.folder import write_folder
from hnm.view.pages import PLAIN_VIEWER, viewer_files
from hnm.view.sight import Sight
from hnm.view.site import Site
from launch.process.kinds import refuse_other
from launch.process.run_directory import check_cohort, read_run
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.reading.reader import PatchReader

LOOPBACK, USUAL_PORT = "127.0.0.1", 5010
MAX_SLIDES = 20  # in a folder, unless slides are named: 10 MB each


def view(run: Path, names: Sequence[str], out: Path | None, port: int, cohort_folder: Path | None) -> int:
    """Write the view of a run into `out`, or serve it until Ctrl-C.

    Args:
        run: the run directory.
        names: of slides; none: all by the server, in the folder `MAX_SLIDES`: see `Sight.first_slides`.
        out: folder; None: serve.
        port: to serve on; 0: the usual one, or a free one.
        cohort_folder: where the cohort is now, if it has moved.

    Raises:
        InputError: there is nothing to show (yet), no such slide, or the port is taken.
    """
    refuse_other(run)
    with opened(run, cohort_folder) as (record, reader):
        sight = Sight(record)
        slides = [_slide_of(sight, name) for name in names]
        if not viewer_files():
            print(PLAIN_VIEWER)
        if out is not None:
            _write(sight, reader, slides, out)
            return 0
        site = Site(record, reader)
        try:
            serve(site, port, sight.place(slides[0]) if slides else "")
        finally:
            site.close()
    return 0


@contextmanager
def opened(run: Path, cohort_folder: Path | None) -> Iterator[tuple[RunRecord, PatchReader | None]]:
    """Yield a run's record and a reader of its patches; None where there are features in their place."""
    config, recorded_folder = read_run(home_of(run))
    cohort = Cohort.open(cohort_folder or recorded_folder)
    check_cohort(home_of(run), cohort, config.data)
    if not cohort.has_places:
        raise InputError(f"{cohort.root}: it is not known where its patches lie (features of another tool). See hnm report {run}")
    config, study = _of_target(run, config, open_study(cohort, config.data, config.seed))
    record = read_record(run, config, study)
    strict = config.reader.model_copy(update={"broken": "fail"})  # no other patch stands in for one that is looked at
    reading: AbstractContextManager[PatchReader | None]
    reading = PatchReader(record.study.cohort, strict) if cohort.has_pictures else nullcontext()
    with reading as reader:
        yield record, reader


def _of_target(run: Path, config: Config, study: Study) -> tuple[Config, Study]:
    """Return configuration and study of a run, or of the target whose folder `run` is.

    Raises:
        InputError: the run has several targets, and none is named.
    """
    if study.targets is None:
        return config, study
    folders = [folder.resolve() for folder in target_folders(home_of(run), study.targets)]
    if run.resolve() not in folders:
        some = ", ".join(str(run / folder.parent.name / folder.name) for folder in folders)
        raise InputError(f"{run}: a run of {len(folders)} targets, whose slides are shown one target at a time. Name one: {some}")
    target = folders.index(run.resolve())
    return config_of_target(config, study.targets, target), study.of_target(target)


def _slide_of(sight: Sight, name: str) -> int:
    """Return the number of a slide.

    Raises:
        InputError: there is none of this name, or it was not scored.
    """
    known = {sight.name(slide): slide for slide in sight.slides}
    if name in known:
        return known[name]
    if name in sight.record.study.cohort.slide_ids:
        raise InputError(f"{sight.record.run}: slide {name!r} has no score (yet): test slides have one after hnm evaluate")
    near = difflib.get_close_matches(name, known, 3, 0.5) or list(known)[:3]
    raise InputError(f"{sight.record.run}: no slide {name!r}. Some that there are: {', '.join(near)}")


def _write(sight: Sight, reader: PatchReader | None, slides: Sequence[int], out: Path) -> None:
    chosen = slides or sight.first_slides(MAX_SLIDES)
    num_lost = write_folder(sight, reader, chosen, out)
    left = len(sight.slides) - len(chosen)
    if not slides and left:
        print(f"{left:,} more slides have no page there: name them, or leave --out away to see all", file=sys.stderr)
    if num_lost:
        print(f"warning: {num_lost:,} patches cannot be read and have no picture there", file=sys.stderr)
    print(f"wrote {out}: {len(chosen)} slides. Open {out / 'index.html'}; the folder can be moved or sent as it is")


def serve(site: Site, port: int, first: str) -> None:
    """Serve a site to this machine alone until Ctrl-C, and print the address of the page `first`."""
    server = make_server(site, port)
    print(f"http://{LOOPBACK}:{server.server_port}/{first}\nonly this machine reaches it; Ctrl-C ends it", flush=True)
    try:
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    finally:
        server.server_close()


def make_server(site: Site, port: int) -> ThreadingHTTPServer:
    """Return a server of a site on the port that was asked for, else on the usual one, else on a free one.

    Raises:
        InputError: the port that was asked for is taken.
    """

    class Handler(_Handler):
        of_site = site

    for candidate in (port,) if port else (USUAL_PORT, 0):
        try:
            return ThreadingHTTPServer((LOOPBACK, candidate), Handler)
        except OSError:
            continue
    raise InputError(f"--port {port}: taken on this machine. Give another, or leave --port out")


class _Handler(BaseHTTPRequestHandler):
    """Answers GET for what the site has, to whoever calls it by its own name."""

    of_site: Site
    server: ThreadingHTTPServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the name is http.server's
        own = {f"{name}:{self.server.server_port}" for name in (LOOPBACK, "localhost")}
        if self.headers.get("Host") not in own:  # a stranger's page may have a name of its own lead here
            self._send(403, "text/plain", b"ask for it by its address")
            return
        answer = self.of_site.answer(unquote(urlsplit(self.path).path).removeprefix("/"))
        if answer is None:
            self._send(404, "text/plain", b"there is no such page")
        else:
            self._send(200, *answer)

    def _send(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(content))),
                            ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        with suppress(TimeoutError, BrokenPipeError, ConnectionResetError):  # the browser may have gone elsewhere
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each answer: a slide has thousands of tiles."""
