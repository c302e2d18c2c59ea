"""Shards behind servers as they are: redirects, slow and silent connections, cut bodies, pages of HTML."""

import http.server
import io
import os
import threading
import time

import pytest
from filelock import Timeout

from siam.data import remote
from siam.data.sharding import shard
from siam.data.sources import open_images
from siam.errors import DataError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's `files`, in the way that the first folder of the path says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        way, _, name = self.path.strip("/").partition("/")
        self.server.asked.append((way, name))
        data = self.server.files.get(name, b"")
        if way == "moved":
            self.redirect(f"/again/{name}")
        elif way == "again":
            self.redirect(f"http://127.0.0.1:{self.server.server_port}/plain/{name}")
        elif way == "circle":
            self.redirect(self.path)
        elif way == "local":
            self.redirect("file:///etc/passwd")
        elif way == "refused":
            self.send_error(403)
        elif way == "gone":
            self.send_error(404)
        elif way == "page":
            self.send(b"<html>sign in</html>", "text/html")
        elif way == "slow":
            self.send(data, pause=0.02)
        elif way == "silent":
            self.send(data[: len(data) // 2], length=len(data), then=lambda: self.server.over.wait(30))
        elif way == "cut":
            self.send(data[: len(data) // 2], length=len(data))
        else:
            self.send(data)

    def do_HEAD(self):
        self.do_GET()

    def redirect(self, place):
        self.send_response(302)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, data, kind="application/x-tar", length=None, pause=0.0, then=lambda: None):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if self.command == "GET":
            for at in range(0, len(data), 1024):
                self.wfile.write(data[at : at + 1024])
                time.sleep(pause)
            self.wfile.flush()
            then()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(photos, tmp_path, monkeypatch):
    """A server of one shard, x.tar, with a cache of its own."""
    pytest.importorskip("aiohttp")
    shard(photos, tmp_path / "shards")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {"x.tar": next((tmp_path / "shards").glob("*.tar")).read_bytes()}
    server.asked, server.over = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("SIAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_ATTEMPTS", 2)
    monkeypatch.setattr(remote, "_SILENCE", 1.0)
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("way", ["plain", "moved", "slow"])
def test_redirects_are_followed_and_slow_servers_waited_for(server, way):
    """A slow download takes longer than the silence that would end it."""
    file = remote.fetch(f"{server.url}/{way}/x.tar")
    assert file.read_bytes() == server.files["x.tar"]
    assert len(open_images(f"{server.url}/{way}/x.tar").train) == 24
    assert sum(asked == ("plain", "x.tar") for asked in server.asked) <= 2 * (way != "slow")


@pytest.mark.parametrize("way", ["circle", "local", "silent", "cut", "refused"])
def test_a_download_that_fails_has_an_end_and_leaves_nothing(server, way, tmp_path):
    started = time.monotonic()
    with pytest.raises(DataError, match=rf"{way}/x\.tar cannot be downloaded: \S+") as caught:
        remote.fetch(f"{server.url}/{way}/x.tar")
    assert time.monotonic() - started < 20
    assert "\n" not in str(caught.value)
    assert [file.name for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"] == []


def test_a_missing_file_is_told_from_a_server_that_cannot_be_reached(server):
    with pytest.raises(DataError, match=r"gone/x\.tar does not exist$"):
        remote.fetch(f"{server.url}/gone/x.tar")
    with pytest.raises(
        DataError, match=r"x\.tar cannot be downloaded: Cannot connect to host 127\.0\.0\.1:9"
    ):
        remote.fetch("http://127.0.0.1:9/x.tar")


def test_a_page_instead_of_a_shard_is_named(server):
    with pytest.raises(DataError, match="found no images in the 1 shards"):
        open_images(f"{server.url}/page/x.tar")


class Held:
    """A lock that another process holds, and touches before each of the first `goes_on` timeouts."""

    goes_on, tries = 0, 0

    def __init__(self, path):
        self.path = path
        path.touch()

    def acquire(self, timeout):
        Held.tries += 1
        if Held.tries > 9:
            return
        if Held.tries <= self.goes_on:
            os.utime(self.path, ns=(Held.tries, Held.tries))
        raise Timeout(str(self.path))

    def release(self):
        pass


@pytest.mark.parametrize("goes_on", [9, 4])
def test_the_download_of_another_process_is_waited_for_while_it_goes_on(tmp_path, monkeypatch, goes_on):
    monkeypatch.setattr(remote, "FileLock", Held)
    monkeypatch.setattr(Held, "goes_on", goes_on)
    monkeypatch.setattr(Held, "tries", 0)
    lock, url = tmp_path / "x.lock", "https://here/x.tar"
    if goes_on == 9:
        with remote._downloading(lock, url):
            assert Held.tries == 10
    else:
        stopped = pytest.raises(
            DataError, match=r"x\.tar is being downloaded by another process, which has not"
        )
        with stopped, remote._downloading(lock, url):
            pytest.fail("two at a time")
        assert Held.tries == 5


def test_a_download_touches_its_lock(tmp_path):
    (tmp_path / "lock").touch()
    os.utime(tmp_path / "lock", ns=(1, 1))
    target = io.BytesIO()
    remote._copy(io.BytesIO(b"abc"), target, tmp_path / "lock")
    assert target.getvalue() == b"abc"
    assert (tmp_path / "lock").stat().st_mtime_ns > 1
