"""An exact version of data, brought to where somebody needs it, verified by hash."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import RequestError, Transient
from mlops_provider.steps.data.remote import Pointer
from mlops_provider.steps.data.repository import Repository, repository
from mlops_provider.steps.records import DataVersion, FeatureVersion
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Storage, file_hash, join


class CheckoutArguments(Frozen):
    """What to bring where: a version from the ledger, or a tag, or a commit with a partition or a path.

    :param path: of the content in the repository; that of the partition, or of a version's tag, if empty.
    :param target: URI of the file, or of the folder, that is written; a relative one lies under data_root.
    """

    target: str
    version: FeatureVersion | DataVersion | None = None
    tag: str = ""
    rev: str = ""
    partition: str = ""
    path: str = ""


class CheckedOut(Frozen):
    """What lies at the target now."""

    uri: str
    rev: str
    md5: str
    size: int
    files: int


@step("checkout", arguments=CheckoutArguments, result=CheckedOut, cached=False)
def checkout(job: Job, arguments: CheckoutArguments) -> CheckedOut:
    """Materializes a version. What plain `dvc add` and `dvc push` wrote, files and folders, is read too.

    :raises DataError: naming the object in the remote that is missing or damaged; nothing is written then.
    :raises RequestError: if it is not clear which version is meant.
    """
    place = repository(job)
    path, rev, pointer = _found(job, place, arguments)
    target = job.deployment.source(arguments.target)
    name = f"{path} at {rev[:12]}"
    try:
        with tempfile.TemporaryDirectory(prefix="mlops-checkout-", ignore_cleanup_errors=True) as folder:
            content = Path(folder, "content")
            place.remote.fetch(pointer, content, name)
            files = sorted(p for p in content.rglob("*") if p.is_file()) if content.is_dir() else [content]
            uris = [join(target, *p.relative_to(content).parts) if pointer.folder else target for p in files]
            size = sum(_delivered(job.storage, file, uri) for file, uri in zip(files, uris, strict=True))
    except OSError as error:
        raise Transient(f"{name} was not brought to {target}: {error}") from error
    return CheckedOut(uri=target, rev=rev, md5=pointer.md5, size=size, files=len(files))


def _found(job: Job, place: Repository, arguments: CheckoutArguments) -> tuple[str, str, Pointer]:
    """Path, commit and pointer of what is asked for."""
    version, tag, rev = arguments.version, arguments.tag, arguments.rev
    if sum(map(bool, (version, tag, rev))) != 1:
        raise RequestError("checkout: give one of version, tag and rev")
    if version is not None:
        return version.path, version.rev, Pointer(md5=version.md5, size=version.size)
    path = arguments.path
    if not path and arguments.partition:
        path = f"{job.config.data.dvc.path}/{arguments.partition}.parquet"
    if not path and tag.startswith(f"{job.config.data.dvc.path}/"):
        path = f"{tag.rpartition('/')[0]}.parquet"
    if not path:
        raise RequestError(f"checkout of {tag or rev}: give the partition, or the path in the data repository")
    return path, *place.find(path, tag=tag, rev=rev)


def _delivered(storage: Storage, file: Path, uri: str) -> int:
    """Puts a verified file in place, whole; returns its size. What is there already stays untouched."""
    size = file.stat().st_size
    if not _same(storage, file, uri):
        if storage.is_local(uri):
            _, path = storage.filesystem(uri)
            _replace(file, Path(path))
        else:
            storage.upload(file, uri)
    return size


def _replace(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".mlops-") as folder:
        copy = Path(folder, "file")
        shutil.copyfile(file, copy)
        copy.replace(target)


def _same(storage: Storage, file: Path, uri: str) -> bool:
    return storage.is_local(uri) and storage.exists(uri) and storage.describe(uri).hash == file_hash(file)
