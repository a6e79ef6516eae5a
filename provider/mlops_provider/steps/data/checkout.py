"""An exact version of data, brought to where somebody needs it, verified by hash."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import RequestError, Transient
from mlops_provider.steps.data import delivery
from mlops_provider.steps.data.remote import Pointer
from mlops_provider.steps.data.repository import FORMS, Found, Repository, repository
from mlops_provider.steps.records import DataVersion, FeatureVersion
from mlops_provider.steps.step import Job, step


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

    A folder holds the files of the version and no others then: what an earlier checkout put there is removed.

    :raises DataError: naming the object in the remote that is missing or damaged; nothing is written then.
    :raises RequestError: if it is not clear which version is meant, or something else lies at the target.
    """
    if not arguments.target:
        raise RequestError("checkout: name the target")
    place = repository(job)
    found = _found(job, place, arguments)
    target, storage, pointer = job.deployment.source(arguments.target), job.storage, found.pointer
    if not pointer.folder:
        delivery.require_file(storage, target, arguments.target)
    name = f"{found.path} at {found.rev[:12]}"
    try:
        with tempfile.TemporaryDirectory(prefix="mlops-checkout-", ignore_cleanup_errors=True) as folder:
            content = Path(folder, "content")
            files = found.remote.fetch(pointer, content, name)
            size = sum((content / file).stat().st_size for file in files)
            with delivery.translated(target):
                if pointer.folder:
                    delivery.folder(storage, content, files, target)
                else:
                    delivery.file(storage, content, target)
    except OSError as error:
        raise Transient(f"{name} was not brought to {target}: {error}") from error
    return CheckedOut(uri=target, rev=found.rev, md5=pointer.md5, size=size, files=len(files))


def _found(job: Job, place: Repository, arguments: CheckoutArguments) -> Found:
    """Pointer of what is asked for, and where its content is."""
    version, tag, rev, path = arguments.version, arguments.tag, arguments.rev, arguments.path
    if sum(map(bool, (version, tag, rev))) != 1:
        raise RequestError("checkout: give one of version, tag and rev")
    if version is not None:
        pointer = Pointer(md5=version.md5, size=version.size)
        return Found(version.path, version.rev, pointer, place.holder(version, pointer))
    if path:
        return place.find(path.removesuffix(".dvc"), tag=tag, rev=rev)
    own = job.config.data.dvc.path
    if arguments.partition:
        return place.find(f"{own}/{arguments.partition}.parquet", tag=tag, rev=rev)
    if tag.startswith(f"{own}/"):
        return place.find(*(f"{tag.rpartition('/')[0]}{form}" for form in FORMS), tag=tag, rev=rev)
    raise RequestError(f"checkout of {tag or rev}: give the partition, or the path in the data repository")
