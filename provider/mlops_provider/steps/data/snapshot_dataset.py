"""Versions of any dataset: a parquet or CSV file, or a folder of parquet files."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from mlops_provider.checks import Frozen, Verdict, merge
from mlops_provider.exceptions import DataError, RequestError, Transient
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.repository import repository
from mlops_provider.steps.records import DataVersion
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact, Storage, digest

_PART = r"[A-Za-z0-9][A-Za-z0-9_=-]{0,62}"


class DatasetArguments(Frozen):
    """What to version under which name.

    :param dataset: URI of a ``.parquet`` or ``.csv`` file or of a folder of parquet files, a relative one under data_root;
        or a file that another step recorded.
    :param name: of the dataset; it lies below ``data.dvc.path`` in the data repository. Letters, so that it is no partition.
    :param partition: for one of several parts that are versioned each on its own.
    :param verdicts: those that must have passed.
    """

    dataset: str | Artifact
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    partition: str = Field("", pattern=rf"^({_PART})?$")
    verdicts: tuple[Verdict, ...] = ()


class DatasetSnapshot(Frozen):
    """The version."""

    name: str
    partition: str
    data: DataVersion


@step("snapshot_dataset", arguments=DatasetArguments, result=DatasetSnapshot, cached=False)
def snapshot_dataset(job: Job, arguments: DatasetArguments) -> DatasetSnapshot:
    """Versions a dataset as it lies there. The ledger is not told: no model is trained on it without a partition's checks.

    Content first, pointer last, and nothing if the content is unchanged, as for the feature table of a partition. Hidden
    files of a folder, such as Spark's ``_SUCCESS``, are left out.

    :raises Refused: if a verdict did not pass.
    :raises DataError: if there is no such dataset, or it cannot be read to its end.
    :raises AccessDenied: if the repository or the remote does not let us in, which is found out before anything is read.
    :raises Transient: if the repository or the remote cannot be reached, or a disk is full.
    """
    if arguments.verdicts:
        merge(f"{job.config.name} {arguments.name}", arguments.verdicts).require()
    given = arguments.dataset
    uri = given.uri if isinstance(given, Artifact) else job.deployment.source(given)
    place = repository(job)
    try:
        place.probe(write=True)
        with tempfile.TemporaryDirectory(prefix="mlops-snapshot-", ignore_cleanup_errors=True) as folder:
            content = _fetched(job.storage, given if isinstance(given, Artifact) else uri, Path(folder))
            told = _described(content, uri)
            parts = (job.config.data.dvc.path, arguments.name, arguments.partition)
            path = "/".join(filter(None, parts)) + content.suffix
            stored = place.add(content, path, f"{job.config.name} {arguments.name} {arguments.partition}".rstrip())
    except OSError as error:
        raise Transient(f"{uri} was not versioned: {error}") from error
    pointer = stored.pointer
    version = DataVersion(
        partition=arguments.partition,
        rev=stored.rev,
        tag=stored.tag,
        path=path,
        md5=pointer.md5,
        size=pointer.size or 0,
        files=pointer.files,
        uri=place.remote.uri(pointer.md5),
        **told,
    )
    return DatasetSnapshot(name=arguments.name, partition=arguments.partition, data=version)


def _fetched(storage: Storage, given: str | Artifact, folder: Path) -> Path:
    """A copy: what is versioned and what is told of it are the same, whoever writes to the original meanwhile."""
    uri = given.uri if isinstance(given, Artifact) else given
    suffix = re.search(r"\.(parquet|csv)$", uri.lower())
    file = folder / f"dataset{suffix[0] if suffix else ''}"
    fs, path = storage.filesystem(uri)
    if isinstance(given, Artifact) or fs.isfile(path):
        if not suffix:
            raise RequestError(f"{uri} is no dataset: name a .parquet or .csv file, or a folder of parquet files")
        _copy(storage, given, uri, file)
        return file
    target, dataset = folder / "dataset", Dataset(storage, uri)
    assert dataset.parts  # or it says what is missing
    names = dataset.files()
    if own := [name for name in names if name.endswith(".dvc") or name.rpartition("/")[2] == "dvc.yaml"]:
        raise DataError(f"{uri} holds {own[0]}, a file of DVC: no version lies in another; move it out of the folder")
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with fs.open(f"{path.rstrip('/')}/{name}", "rb") as source, copy.open("wb") as opened:
            shutil.copyfileobj(source, opened, 1 << 20)
    return target


def _copy(storage: Storage, given: str | Artifact, uri: str, file: Path) -> None:
    if isinstance(given, Artifact):
        storage.download(given, file)
        return
    with storage.open(uri) as source, file.open("wb") as opened:
        shutil.copyfileobj(source, opened, 1 << 20)


def _described(content: Path, uri: str) -> dict[str, Any]:
    """Rows and schema; every file is read, so that one that is cut short is not versioned as good."""
    dataset = Dataset(Storage({}), str(content))
    try:
        if dataset.uneven:
            raise DataError(dataset.uneven)
        fields = [[field.name, str(field.type)] for field in dataset.schema]
        rows = sum(batch.num_rows for batch in dataset.batches())
    except DataError as error:
        raise DataError(str(error).replace(str(content), uri)) from None
    return {"rows": rows, "schema_hash": digest(fields)}
