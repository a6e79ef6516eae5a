"""A dataset by URI: parquet, folders of parquet, CSV; what is wrong with it is named with the file and the column."""

from __future__ import annotations

import datetime as dt
import errno
import gzip
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_provider.exceptions import AccessDenied, DataError, IntegrityError, MissingLibraryError, RequestError
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.storage import Storage

ROWS = {"id": [1, 2, 3], "name": ["a", None, "c"], "size": [0.5, 1.5, None]}


def write(path: Path, columns: dict[str, Any] = ROWS, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def read(uri: object, columns: list[str] | None = None) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pa.Table.from_batches(Dataset(Storage(), str(uri)).batches(columns)).to_pydict()
    return found


def test_a_file_is_read_by_row_group_with_the_columns_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", row_group_size=2)
    assert read(path) == ROWS
    batches = list(Dataset(Storage(), str(path)).batches(["size", "id"]))
    assert [(b.num_rows, b.schema.names) for b in batches] == [(2, ["size", "id"]), (1, ["size", "id"])]


def test_only_the_columns_asked_for_leave_the_disk(tmp_path: Path) -> None:
    wide = {f"c{n}": [float(n)] * 50_000 for n in range(20)} | {"x": [str(i) for i in range(50_000)]}
    path = write(tmp_path / "x.parquet", wide, compression="none", use_dictionary=False)
    before = pa.total_allocated_bytes()
    peak = max(pa.total_allocated_bytes() - before for _ in Dataset(Storage(), str(path)).batches(["c1"]))
    assert peak < path.stat().st_size / 8


def test_a_hive_folder_is_one_dataset_with_its_keys_as_columns(tmp_path: Path) -> None:
    write(tmp_path / "d" / "year=2013" / "kind=a%20b" / "1.parquet", {"id": [1]})
    write(tmp_path / "d" / "year=2014" / "kind=c" / "1.parquet", {"id": [2]})
    (tmp_path / "d" / "_SUCCESS").write_text("")
    write(tmp_path / "d" / "_temporary" / "1.parquet", {"other": [3]})
    assert read(tmp_path / "d") == {"id": [1, 2], "year": [2013, 2014], "kind": ["a b", "c"]}
    assert read(tmp_path / "d", ["kind"]) == {"kind": ["a b", "c"]}


def test_a_plain_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    write(tmp_path / "d" / "b.parquet", {"id": [2]})
    write(tmp_path / "d" / "a.parquet", {"id": [1]})
    assert read(f"file://{tmp_path}/d") == {"id": [1, 2]}


def test_csv_is_read_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,name,at\n1,a,2013-01-01T00:00:00Z\n2,,\n")
    found = read(path)
    assert (found["id"], found["name"]) == ([1, 2], ["a", None])
    assert found["at"] == [dt.datetime(2013, 1, 1, tzinfo=dt.UTC), None]
    assert read(path, ["name"]) == {"name": ["a", None]}


def test_any_file_system_will_do() -> None:
    with fsspec.open("memory://bucket/d/k=1/x.parquet", "wb") as file:
        pq.write_table(pa.table({"id": [1, 2]}), file)
    assert read("memory://bucket/d") == {"id": [1, 2], "k": [1, 1]}


def test_a_column_that_one_file_lacks_is_named_with_the_file(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.parquet")
    write(tmp_path / "d" / "b.parquet", {"id": [1]})
    with pytest.raises(DataError, match=r"b\.parquet lacks the column 'name'; it has id"):
        read(tmp_path / "d")
    with pytest.raises(DataError, match="lacks the column 'absent'"):
        read(tmp_path / "d", ["absent"])


def test_a_column_of_another_type_is_named_with_the_file(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.parquet", {"id": [1]})
    write(tmp_path / "d" / "b.parquet", {"id": ["1"]})
    with pytest.raises(DataError, match=r"b\.parquet: the column 'id' is string, .* int64"):
        read(tmp_path / "d")


def test_folders_of_other_names_are_no_one_dataset(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a=1" / "x.parquet")
    write(tmp_path / "d" / "b=1" / "x.parquet")
    with pytest.raises(DataError, match="folders of other names"):
        read(tmp_path / "d")


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        read(write(tmp_path / "x.parquet", {"id": pa.array([], pa.int64())}))


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"id": list(range(10_000))})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"x\.parquet is no readable parquet file"):
        read(path)
    (tmp_path / "x.csv").write_text("a,b\n1\n2,3,4\n")
    with pytest.raises(DataError, match=r"x\.csv is no readable CSV file"):
        read(tmp_path / "x.csv")


def test_a_storage_that_fails_says_nothing_about_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet", {"id": list(range(100_000))}, row_group_size=10_000)
    opened, reads = Storage.open, list[int]()

    def flaky(self: Storage, uri: str) -> Any:
        file = opened(self, uri)
        read_on = file.read

        def failing(count: int = -1) -> bytes:
            reads.append(count)
            if len(reads) > 8:
                raise TimeoutError(errno.ETIMEDOUT, "the store does not answer")
            return read_on(count)

        file.read = failing  # type: ignore[method-assign]
        return file

    monkeypatch.setattr(Storage, "open", flaky)
    with pytest.raises(TimeoutError, match="does not answer"):
        list(Dataset(Storage(), str(path)).batches())


@pytest.mark.parametrize("name", ["absent.parquet", "absent"])
def test_what_does_not_exist_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / name)


def test_a_folder_without_parquet_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.txt").write_text("")
    with pytest.raises(DataError, match="holds no parquet file"):
        read(tmp_path / "d")


def test_two_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="more than one column 'a'"):
        read(tmp_path / "x.parquet")


def test_a_recorded_file_is_verified_and_stays_the_one_that_was_verified(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet")
    artifact = Storage().describe(str(path))
    dataset = Dataset.of(Storage(), artifact)
    assert pa.Table.from_batches(dataset.batches()).num_rows == 3
    path.unlink()
    write(path, {"id": [9], "name": ["z"], "size": [9.0]})
    assert pa.Table.from_batches(dataset.batches()).to_pydict() == ROWS
    with pytest.raises(IntegrityError, match="has changed"):
        list(Dataset.of(Storage(), artifact).batches())


PERSON = "Jane Doe 1970-01-01"
LATE = 5 << 20  # types follow from the first 4 MiB


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ("1,2\n", f"3,{PERSON}\n", "CSV conversion error to int64"),
        ("1,2\n", f"3,4,{PERSON}\n", "Expected 2 columns, got 3"),
        ("1,2\n", f"3,{',' * 2000}{PERSON}\n", "Expected 2 columns, got 2002"),
        ("1,2013-01-01 00:00:00\n", "3,1970-01-01T00:00:00Z\n", "CSV conversion error to timestamp"),
        ("1,2013-01-01T00:00:00Z\n", "3,1970-01-01 00:00:00\n", "CSV conversion error to timestamp"),
        ("1,true\n", f"3,{PERSON}\n", "CSV conversion error to bool"),
    ],
)
def test_what_stands_in_a_csv_file_is_in_no_error(tmp_path: Path, first: str, then: str, said: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,x\n" + first * (LATE // len(first)) + then)
    with pytest.raises(DataError, match=rf"x\.csv is no readable CSV file.*{said}") as caught:
        read(path)
    shown = "".join(traceback.format_exception(caught.value))
    assert "Jane" not in shown
    assert "1970" not in shown


@pytest.mark.parametrize(("others", "expected"), [(["1", "2"], [1, 2]), (["a", "1"], ["1", "a"])])
def test_hives_default_partition_is_null(tmp_path: Path, others: list[str], expected: list[Any]) -> None:
    for number, value in enumerate([*others, "__HIVE_DEFAULT_PARTITION__"]):
        write(tmp_path / "d" / f"k={value}" / "x.parquet", {"id": [number]})
    assert sorted(filter(None, read(tmp_path / "d")["k"])) == expected
    assert read(tmp_path / "d", ["k"])["k"].count(None) == 1


def test_hives_default_partition_alone_is_a_column_of_nulls(tmp_path: Path) -> None:
    write(tmp_path / "d" / "k=__HIVE_DEFAULT_PARTITION__" / "x.parquet", {"id": [1, 2]})
    assert read(tmp_path / "d") == {"id": [1, 2], "k": [None, None]}
    assert Dataset(Storage(), str(tmp_path / "d")).schema.field("k").type == pa.string()


@pytest.mark.parametrize("content", ["Größe,b\n1,2\n".encode("latin-1"), gzip.compress(b"a,b\n1,2\n", mtime=0)])
def test_a_csv_whose_header_is_no_text_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.csv is no readable CSV file, its header is not UTF-8"):
        read(path)


def test_a_csv_whose_values_are_no_text_is_refused_before_any_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"id,a,b\n1,caf\xe9,x\n2,tea,y\n")
    with pytest.raises(DataError, match=r"x\.csv is no readable CSV file: values of 'a' are not UTF-8 text"):
        read(path)


def test_a_csv_has_the_missing_values_that_pandas_finds_in_it(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,a\n1,None\n2,<NA>\n3,NA\n4,none\n5,\n")
    assert read(path, ["a"])["a"] == pd.read_csv(path)["a"].astype("object").where(lambda a: a.notna(), None).tolist()


@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("foo://x/y.parquet", RequestError, r"foo://x/y\.parquet: nothing opens foo://"),
        ("s3a://x/y.parquet", RequestError, "write s3:// in place of s3a://"),
        ("gs://x/y.parquet", MissingLibraryError, r"gs://x/y\.parquet: .*gcsfs"),
        ("s3://x/y.parquet", AccessDenied, r"s3://x/y\.parquet: .*Check the credentials"),
    ],
)
def test_a_uri_that_cannot_be_opened_is_named(
    uri: str, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = Storage({"s3": {"skip_instance_cache": True}})
    for look in (lambda: Dataset(storage, uri).parts, lambda: storage.read(uri), lambda: storage.describe(uri)):
        with pytest.raises(error, match=said):
            look()


def test_what_lies_under_a_uri_is_told_apart_by_content(tmp_path: Path) -> None:
    folder = write(tmp_path / "d" / "a.parquet").parent
    write(folder / "b.parquet")

    def found(uri: object) -> str:
        return Dataset(Storage(), str(uri)).content().hash

    assert found(f"file://{folder}/") == found(folder)
    assert found(folder / "a.parquet") == found(folder / "b.parquet")
    before = found(folder)
    (folder / "_SUCCESS").touch()
    assert found(folder) == before
    (folder / "b.parquet").rename(folder / "c.parquet")
    assert found(folder) != before
    memory = fsspec.filesystem("memory")
    for content in (b"one", b"two"):
        memory.pipe_file("/told/apart.csv", content)
        assert before != (before := found("memory://told/apart.csv"))
        assert before == found("memory://told/apart.csv")
