"""map.parquet: what is written is read back, and other files are refused in one sentence."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siam.atlas.table import SCHEMA, Map, read_map
from siam.errors import DataError, RunError

FACTS = {
    "data": "/photos", "run": "runs/mine", "k": 1, "duplicates": [[0, 1]],
    "clusters": [{"cluster": 0, "size": 2, "representatives": [0]}],
}  # fmt: skip


def small_map():
    columns = {
        "path": ["a.jpg", "b\n<i>.jpg"], "label": ["cat", None], "x": [0.0, 1.0], "y": [2.0, 3.0],
        "cluster": [0, 0], "representative": [True, False], "duplicate_of": [None, "a.jpg"],
        "outlier": [0.25, 0.25], "neighbors": [[1], [0]], "similarity": [[0.75], [0.75]],
        "thumbnail": [b"\xff\xd8", None],
    }  # fmt: skip
    return Map(pa.table(columns, schema=SCHEMA), FACTS)


def test_a_map_is_read_back_from_its_file_and_from_its_folder(tmp_path):
    whole = small_map()
    file = whole.write(tmp_path / "new" / "map")
    assert file == tmp_path / "new" / "map" / "map.parquet"
    for place in (file, file.parent):
        found = read_map(place)
        assert found.table.to_pylist() == whole.table.to_pylist()
        assert found.facts == FACTS


def test_other_files_are_no_maps(tmp_path):
    with pytest.raises(RunError, match=r"cannot read .*map\.parquet: No such file"):
        read_map(tmp_path)
    (tmp_path / "map.parquet").write_bytes(b"not Parquet")
    with pytest.raises(DataError, match="is not a map that siam explore wrote"):
        read_map(tmp_path)
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="is not a map that siam explore wrote"):
        read_map(tmp_path / "other.parquet")
    table = small_map().table.drop_columns(["label"])
    Map(table, FACTS).write(tmp_path)
    with pytest.raises(DataError, match="it has other columns"):
        read_map(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write to"):
        small_map().write(tmp_path / "file")
