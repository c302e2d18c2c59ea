"""The page's server: what it answers, and to whom."""

import http.client
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from siam.atlas.embedded import Located
from siam.atlas.server import LARGEST, Server
from siam.atlas.studio import Studio
from siam.data.sources import open_images
from siam.errors import DataError, SettingsError
from tests.atlas.maps import Colors, colors_of, jpeg, map_of_sets, serving

COLORS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 210)}
KNOWN = {"X-Siam": "1", "Content-Type": "application/json"}


def folder_of_colors(root, count=6):
    """A folder of images in three colors, a TIFF, a file that is no image, and a link out of it."""
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            shade = np.clip(np.array(color) + rng.normal(0, 12, 3), 0, 255)
            (root / name / f"{i}.jpg").write_bytes(jpeg(shade, 20))
    Image.new("RGB", (20, 10), (200, 30, 30)).save(root / "red" / "old.tif")
    secret = root.parent / "secret.jpg"
    secret.write_bytes(jpeg((1, 2, 3)))
    os.symlink(secret, root / "red" / "z-link.jpg")
    return root


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    root = folder_of_colors(tmp_path_factory.mktemp("set") / "photos")
    sets = open_images(root)
    vectors = colors_of(sets)
    out = tmp_path_factory.mktemp("out")
    whole = map_of_sets(sets, vectors, root)
    return Studio(whole, out, Located(sets, whole.table["path"].to_pylist()), vectors, Colors())


@pytest.fixture(scope="module")
def server(studio):
    with serving(studio) as running:
        yield running


def port_of(server):
    return server.socket.getsockname()[1]


def ask(server, method, path, body=None, headers=(), host=None):
    """The status, headers and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port_of(server)}")
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    for name, value in {**dict(headers), **({} if data is None else {"Content-Length": len(data)})}.items():
        connection.putheader(name, str(value))
    connection.endheaders(data)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def call(server, name, body=None, **more):
    status, _, data = ask(server, "POST", f"/api/{name}", body or {}, KNOWN, **more)
    return status, json.loads(data)


def row(studio, path):
    return studio.paths.index(path)


def test_the_page_and_full_size_images(server, studio):
    status, headers, page = ask(server, "GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b'"live": true' in page
    status, headers, data = ask(server, "GET", f"/image/{row(studio, 'red/0.jpg')}")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(data)).size == (20, 20)
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]


def test_formats_that_browsers_do_not_show_are_converted(server, studio):
    _, headers, data = ask(server, "GET", f"/image/{row(studio, 'red/old.tif')}")
    assert headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(data)).getpixel((3, 3)) == (200, 30, 30)


@pytest.mark.parametrize(
    "path",
    ["/image/999", "/image/-1", "/image/red/0.jpg", "/image/..%2fsecret.jpg", "/../secret.jpg", "/map.html",
     "/map-..%2f..%2fsecret.js", "/labels.csv", "/api/labels"],
)  # fmt: skip
def test_nothing_is_served_by_name(server, path):
    status, _, data = ask(server, "GET", path)
    assert status in (404, 405)
    assert b"JFIF" not in data


def test_links_out_of_the_folder_are_not_served(server, studio):
    status, _, data = ask(server, "GET", f"/image/{row(studio, 'red/z-link.jpg')}")
    assert (status, data) == (404, b"this image cannot be shown: is a link out of the folder\n")


def test_other_hosts_names_are_refused(server):
    """As after DNS rebinding: another site's name leads to this machine."""
    port = port_of(server)
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        assert ask(server, "GET", "/image/0", host=host)[0] == 421
    assert ask(server, "GET", "/image/0", host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("headers", [{}, {"X-Siam": "1", "Origin": "https://evil.example"}, {"X-Siam": "2"}])
def test_other_sites_pages_can_change_nothing(server, studio, headers):
    given = {"Content-Type": "application/json", **headers}
    status, _, data = ask(server, "POST", "/api/label", {"rows": [0], "name": "x"}, given)
    assert (status, json.loads(data)) == (403, {"error": "this request is not from the page"})
    assert "x" not in studio.labels.names


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("label", {"rows": [99], "name": "x"}, "whole numbers from 0"),
        ("label", {"rows": [True], "name": "x"}, "whole numbers from 0"),
        ("label", {"rows": [0], "name": " "}, "1 to 200 printable characters"),
        ("label", {"rows": [0], "name": "a\nb"}, "1 to 200 printable characters"),
        ("label", {"rows": [0], "name": "-1"}, "means unlabeled"),
        ("label", {"rows": "0", "name": "x"}, "needs rows and name"),
        ("suggest", {"by": "magic"}, "no image has a label"),
        ("accept", {"threshold": 0.5}, "train a probe first"),
        ("search", {"path": "../secret.jpg"}, "no image of this set is named ../secret.jpg"),
        ("search", {"row": 99}, "rows go from 0"),
        ("search", b"{" * 100_000, "needs row"),
    ],
)
def test_requests_that_make_no_sense_are_one_sentence(server, name, body, reason):
    status, answer = call(server, name, body)
    assert status == 400
    assert reason in answer["error"]


def test_requests_have_a_largest_size(server):
    status, answer = call(server, "search", b" " * (LARGEST + 1))
    assert (status, answer["error"]) == (413, f"the request is larger than {LARGEST:,} bytes")


def test_search_by_an_image_by_a_path_and_by_a_row(server, studio):
    image = {"X-Siam": "1", "Content-Type": "application/octet-stream"}
    status, _, data = ask(server, "POST", "/api/search?k=5", jpeg((45, 55, 205), 40), image)
    assert status == 200
    found = json.loads(data)
    assert all(studio.paths[one].startswith("blue/") for one in found["rows"])
    assert found["similarity"] == sorted(found["similarity"], reverse=True)
    _, by_path = call(server, "search?k=4", {"path": "green/2.jpg"})
    assert row(studio, "green/2.jpg") not in by_path["rows"]
    assert all(studio.paths[one].startswith("green/") for one in by_path["rows"])
    assert call(server, "search?k=4", {"row": row(studio, "green/2.jpg")})[1] == by_path
    status, _, data = ask(server, "POST", "/api/search", b"no image", image)
    assert (status, "cannot be read" in json.loads(data)["error"]) == (400, True)


def test_on_another_address_the_token_is_needed(studio):
    with serving(studio, "0.0.0.0") as server:
        token = server.address.partition("token=")[2]
        assert len(token) > 20
        assert ask(server, "GET", "/image/0")[0] == 403
        assert ask(server, "GET", "/?token=wrong")[0] == 403
        status, headers, _ = ask(server, "GET", f"/?token={token}")
        assert (status, headers["location"]) == (303, "/")
        assert "httponly" in headers["set-cookie"].lower()
        cookie = {"Cookie": headers["set-cookie"].partition(";")[0]}
        assert ask(server, "GET", "/image/0", headers=cookie, host="photos.example")[0] == 200


def test_a_port_in_use_is_an_error(server, studio):
    with pytest.raises(SettingsError, match=r"cannot listen on 127.0.0.1, port \d+: .*choose another --port"):
        Server(studio, port=port_of(server))


def test_vectors_of_other_images_are_an_error(studio, tmp_path):
    with pytest.raises(DataError, match="the map has 20 images, but there are 3 embeddings"):
        Studio(studio.page.whole, tmp_path, studio.pictures.images, studio.vectors[:3])
