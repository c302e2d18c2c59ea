"""`siam explore --serve`: a map that is there is opened, and the server is told where to listen."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siam.atlas import server
from siam.atlas.page import write_page
from siam.cli import command as cli
from siam.data.sources import open_images
from tests.atlas.maps import colors_of, map_of_sets


@pytest.fixture
def given(photos, tmp_path):
    """Images, a file of their vectors, and the folder of their map."""
    sets = open_images(photos)
    vectors = colors_of(sets)
    whole = map_of_sets(sets, vectors, photos)
    file, out = tmp_path / "vectors.parquet", tmp_path / "map"
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"path": whole.table["path"], "embedding": embeddings}), file)
    whole.write(out)
    write_page(whole, out)
    return photos, file, out


def test_a_map_that_is_there_is_served(given, monkeypatch, capsys):
    photos, file, out = given
    served = []
    monkeypatch.setattr(server.Server, "run", lambda self: served.append(self.address) or self.socket.close())
    asked = ["explore", str(photos), "--vectors", str(file), "--out", str(out), "--serve", "--port", "0"]
    assert cli.main([*asked, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "map": str(out / "map.parquet"), "page": str(out / "map.html"), "images": 24,
    }  # fmt: skip
    assert served[0].startswith("http://127.0.0.1:")
    assert f"the map is at {served[0]} until you press Ctrl+C" in said.err


def test_a_map_of_other_images_is_not_opened(given):
    from siam.atlas.serving import written

    photos, file, out = given
    assert written(None, str(photos), str(file), out)["images"] == 24
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file)
    assert written(None, str(photos), str(file), out) is None
    assert written("no-run", str(photos), None, out / "nothing") is None


def test_serving_needs_the_images(given, capsys):
    _, file, out = given
    assert cli.main(["explore", "--vectors", str(file), "--out", str(out), "--serve"]) == 2
    assert "--serve needs DATA" in capsys.readouterr().err
