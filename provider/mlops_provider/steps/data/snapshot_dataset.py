"""Versions of any dataset: a parquet or CSV file, or a folder of parquet files."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from mlops_provider.checks import Frozen, merge
from mlops_provider.exceptions import DataError, IntegrityError, RequestError, Transient
from mlops_provider.steps.data.dataset import Dataset
from mlops_provider.steps.data.repository import repository
from mlops_provider.steps.data.validate import ValidateResult
from mlops_provider.steps.records import DataVersion
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact, Storage, digest

_CHANGED = (
    "{uri} has changed since it was {when}: what lies there now is something else. Validate it again and version it with that "
    "verdict; if it is written to all the time, validate and version a copy"
)
_PART = r"[A-Za-z0-9][A-Za-z0-9_=-]{0,62}"


class DatasetArguments(Frozen):
    """What to version under which name.

    :param dataset: URI of a ``.parquet`` or ``.csv`` file or of a folder of parquet files, a relative one under data_root;
        or a file that another step recorded.
    :param name: of the dataset; it lies below ``data.dvc.path`` in the data repository. Letters, so that it is no partition.
    :param partition: for one of several parts that are versioned each on its own.
    :param validated: results of its validation, not only their verdicts, as a result says what it is about. They must have
        passed, and one of them must be about what is versioned.
    """

    dataset: str | Artifact
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    partition: str = Field("", pattern=rf"^({_PART})?$")
    validated: tuple[ValidateResult, ...] = ()


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
    :raises RequestError: if no result of validation is about it, or some of its rows were put into quarantine.
    :raises IntegrityError: if it has changed since it was validated or recorded.
    :raises DataError: if there is no such dataset, or it cannot be read to its end.
    :raises AccessDenied: if the repository or the remote does not let us in, which is found out before anything is read.
    :raises Transient: if the repository or the remote cannot be reached, or a disk is full.
    """
    if arguments.validated:
        merge(f"{job.config.name} {arguments.name}", [result.verdict for result in arguments.validated]).require()
    given = arguments.dataset
    uri = given.uri if isinstance(given, Artifact) else job.deployment.source(given)
    place = repository(job)
    try:
        place.probe(write=True)
        with tempfile.TemporaryDirectory(prefix="mlops-snapshot-", ignore_cleanup_errors=True) as folder:
            content = _fetched(job.storage, given if isinstance(given, Artifact) else uri, Path(folder))
            _require_recorded(job.storage, given, content)
            if arguments.validated:
                _require_validated(arguments.validated, uri, _hashes(job.storage, uri, content))
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
    with storage.reaching(uri) as (fs, path):
        single = (isinstance(given, Artifact) and not given.many) or fs.isfile(path)
    if single:
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
    if isinstance(given, Artifact) and not given.many:
        storage.download(given, file)
        return
    with storage.open(uri) as source, file.open("wb") as opened:
        shutil.copyfileobj(source, opened, 1 << 20)


def _require_recorded(storage: Storage, given: str | Artifact, copy: Path) -> None:
    """A folder; a file that was recorded is compared while it is copied."""
    if isinstance(given, Artifact) and given.many and given.hash not in _hashes(storage, given.uri, copy):
        raise IntegrityError(_CHANGED.format(uri=given.uri, when="recorded"))


def _hashes(storage: Storage, uri: str, copy: Path) -> set[str]:
    """The hashes that may have been recorded of what was copied: that of the bytes, and what an object store answers."""
    found = {Dataset(Storage({}), str(copy)).content().hash}
    return found if storage.is_local(uri) else found | {Dataset(storage, uri).content().hash}


def _require_validated(results: tuple[ValidateResult, ...], uri: str, hashes: set[str]) -> None:
    """A verdict vouches for the rows that it is about, and for no others."""
    for result in results:
        if result.accepted and result.dataset and _is(result.dataset, uri, hashes):
            raise RequestError(
                f"{uri}: validation put rows of it into quarantine, its verdict is about the others. Hand over the result of "
                "the validation as dataset: that names the accepted rows, or the whole dataset where no row was put aside"
            )
    judged = [artifact for result in results if (artifact := result.passed_on)]
    if any(_is(artifact, uri, hashes) and artifact.hash not in hashes for artifact in judged):
        raise IntegrityError(_CHANGED.format(uri=uri, when="validated"))
    if not any(artifact.hash in hashes for artifact in judged):
        about = ", ".join(sorted({artifact.uri for artifact in judged})) or "what Spark alone could look at"
        raise RequestError(f"{uri} was not validated: the verdicts are about {about}. Validate what is to be versioned")


def _is(artifact: Artifact, uri: str, hashes: set[str]) -> bool:
    return artifact.uri == uri or artifact.hash in hashes


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
