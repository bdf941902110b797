"""`hnm view` as a server of this machine alone, and what it says of slides that it does not have."""

import http.client
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from hnm.view.site import Site
from launch.verbs.view import LOOPBACK, make_server, opened, view
from shards.errors import InputError


@pytest.fixture(scope="module")
def port(evaluated_run: Path) -> Iterator[int]:
    """The port of a server of the run's view."""
    with opened(evaluated_run, None) as (record, reader):
        site = Site(record, reader)
        server = make_server(site, 0)
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()
        server.server_close()
        site.close()


def get(port: int, address: str, host: str = "") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    connection.request("GET", address, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers["Content-Type"], content


def test_it_serves_pages_tiles_and_patches_and_nothing_else(port: int) -> None:
    assert get(port, "/")[:2] == (200, "text/html; charset=utf-8")
    status, _, page = get(port, "/slides/slide-000.html")
    assert status == 200
    assert b"slide-000" in page
    for address in ("/slides/slide-000_files/0/0_0.jpg", "/slides/slide-000_files/6/0_0.jpg?x=1", "/patches/159.jpg"):
        status, kind, content = get(port, address)
        assert (status, kind, content[:2]) == (200, "image/jpeg", b"\xff\xd8")
    for address in ("/../state.json", "/%2e%2e/config.yaml", "/etc/passwd", "/patches/160.jpg", "/slides/slide-999.html"):
        assert get(port, address)[0] == 404


def test_a_name_that_a_stranger_has_lead_here_gets_nothing(port: int) -> None:
    assert get(port, "/", f"localhost:{port}")[0] == 200
    assert get(port, "/", f"evil.example:{port}")[0] == 403


def test_a_port_that_is_taken_and_a_slide_that_is_not_there_are_told(
    port: int, evaluated_run: Path, finished_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"--port {port}: taken"):
        view(evaluated_run, [], None, port, None)
    with pytest.raises(InputError, match=r"no slide 'slide-00'\. Some that there are: slide-00"):
        view(evaluated_run, ["slide-00"], tmp_path / "out", 0, None)
    with opened(finished_run, None) as (record, _):
        tested = str(record.study.cohort.slide_ids[record.study.test[0]])
    with pytest.raises(InputError, match="test slides have one after hnm evaluate"):
        view(finished_run, [tested], tmp_path / "out", 0, None)
    assert not (tmp_path / "out").exists()


def test_the_folder_says_what_it_has(evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # ours is replaced
        assert view(evaluated_run, ["slide-001"], tmp_path / "view", 0, None) == 0
    assert f"wrote {tmp_path / 'view'}: 1 slides" in capsys.readouterr().out
    assert (tmp_path / "view" / "slides" / "slide-001_files" / "6" / "0_0.jpg").is_file()
    assert len(list((tmp_path / "view" / "slides").glob("*.html"))) == 1
