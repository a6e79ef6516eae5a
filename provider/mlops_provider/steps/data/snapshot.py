"""Versions of accepted data: content into the DVC remote, the pointer into git, the decision into the ledger."""

from __future__ import annotations

import logging
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import yaml

from mlops_provider.checks import Frozen, Verdict, merge
from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import ConflictError, DataError, Transient
from mlops_provider.ledger import Draft, Record
from mlops_provider.steps import tables
from mlops_provider.steps.data.features import LABEL
from mlops_provider.steps.data.history import against_history
from mlops_provider.steps.data.profile import ProfileArguments, profile
from mlops_provider.steps.records import DataVersion, DataWork
from mlops_provider.steps.step import Job, step
from mlops_provider.storage import Artifact

log = logging.getLogger("mlops_provider")

_ATTEMPTS = 8
_IDENTITY = ("-c", "user.name=mlops", "-c", "user.email=mlops@localhost", "-c", "commit.gpgsign=false")


class SnapshotArguments(Frozen):
    """The partition, its feature table, and the verdicts that let it in."""

    work: DataWork
    table: Artifact
    verdicts: tuple[Verdict, ...]


class SnapshotResult(Frozen):
    """The version, and the number of the ledger record that accepted it."""

    partition: str
    data: DataVersion
    record: int


class RefuseArguments(Frozen):
    """The partition and why it is refused."""

    work: DataWork
    reason: str


class RefuseResult(Frozen):
    """The number of the ledger record that refused the partition."""

    partition: str
    record: int


@step("snapshot", arguments=SnapshotArguments, result=SnapshotResult, cached=False)
def snapshot(job: Job, arguments: SnapshotArguments) -> SnapshotResult:
    """Versions the feature table of an accepted partition and records that it was accepted.

    Content first, pointer last: no pointer ever names content that is not in the remote. Unchanged content keeps its version.

    :raises Refused: if a verdict did not pass.
    :raises Transient: if the repository or the remote cannot be reached.
    """
    work = arguments.work
    verdict = merge(f"{job.config.name} {work.partition} data", arguments.verdicts).require()
    version = _versioned(job, work.partition, arguments.table)
    profiled = profile(job, ProfileArguments(work=work, table=arguments.table))
    facts = {
        "identity": work.identity,
        "work": work.model_dump(mode="json"),
        "data": version.model_dump(mode="json"),
        "profile": profiled.file.model_dump(mode="json"),
        "warnings": [c.name for c in verdict.checks if not c.passed],
    }
    reason = f"{len(verdict.checks)} checks passed; {version.rows} rows, {version.labelled} labelled, {version.tag}"
    draft = Draft(kind="data", partition=work.partition, outcome="accepted", reason=reason, facts=facts)
    same = _same(draft)

    def guard(records: tuple[Record, ...]) -> Record | None:
        # Partitions that are judged at the same time do not see each other before one of them is accepted.
        known: Record | None = same(records)
        if known is None:
            against_history(job, work, profiled.profile, records).require()
        return known

    record, _ = job.ledger.append(draft, actor=job.deployment.actor, guard=guard)
    return SnapshotResult(partition=work.partition, data=version, record=record.number)


@step("refuse_data", arguments=RefuseArguments, result=RefuseResult, cached=False)
def refuse_data(job: Job, arguments: RefuseArguments) -> RefuseResult:
    """Records that a partition as delivered was refused, so that it is not judged again until it is delivered anew."""
    work = arguments.work
    facts = {"identity": work.identity, "work": work.model_dump(mode="json")}
    draft = Draft(kind="data", partition=work.partition, outcome="refused", reason=arguments.reason, facts=facts)
    record, _ = job.ledger.append(draft, actor=job.deployment.actor, guard=_same(draft))
    return RefuseResult(partition=work.partition, record=record.number)


def _same(draft: Draft) -> Any:
    """A guard: the newest word on this partition says the same already."""

    def guard(records: tuple[Record, ...]) -> Record | None:
        newest = next((r for r in reversed(records) if r.kind == "data" and r.partition == draft.partition), None)
        if newest is None or newest.outcome != draft.outcome or newest.facts["identity"] != draft.facts["identity"]:
            return None
        return newest if newest.facts.get("data") == draft.facts.get("data") else None

    return guard


def read(job: Job, version: DataVersion, columns: list[str] | None = None) -> Any:
    """The pyarrow table of a data version, out of the DVC remote, verified by DVC's hash.

    :raises DataError: if the remote lacks the content or holds other content.
    """
    import hashlib
    import io

    import dvc.api
    import pyarrow.parquet as pq
    from dvc.scm import CloneError

    repository, remote = _places(job)
    try:
        uri = dvc.api.get_url(
            version.path, repo=repository, rev=version.rev, remote="mlops", remote_config={"url": remote}
        )
        content = job.storage.read(uri)
    except CloneError as error:
        raise Transient(f"the data repository {repository} cannot be reached: {error}") from error
    except Exception as error:
        raise DataError(f"{version.tag}: {version.path} at {version.rev[:12]} cannot be read: {error}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != version.md5:
        raise DataError(f"{uri} does not have the content that {version.tag} names (md5 {version.md5}): it was damaged")
    return pq.read_table(io.BytesIO(content), columns=columns)


def _versioned(job: Job, partition: str, table: Artifact) -> DataVersion:
    content = tables.read(job.storage, table)
    times = content.column(job.config.data.event_time)
    extremes = pc.min_max(times).as_py()
    rev, tag, pointer = _committed(job, partition, job.storage.fetch(table))
    return DataVersion(
        partition=partition,
        rev=rev,
        tag=tag,
        path=f"{job.config.data.dvc.path}/{partition}.parquet",
        md5=pointer["md5"],
        size=pointer["size"],
        rows=content.num_rows,
        labelled=content.num_rows - content.column(LABEL).null_count,
        first=extremes["min"],
        last=extremes["max"],
    )


def _committed(job: Job, partition: str, content: bytes) -> tuple[str, str, dict[str, Any]]:
    """Commit, tag and DVC pointer of this content; another writer's push makes it try again on a fresh clone."""
    for attempt in range(_ATTEMPTS):
        with tempfile.TemporaryDirectory(prefix="mlops-dvc-") as folder:
            try:
                return _attempt(job, Path(folder, "work"), partition, content)
            except ConflictError:
                log.info("%s: another writer was first, trying again", partition)
                time.sleep(0.1 * 2**attempt)
    raise ConflictError(f"{_places(job)[0]}: other writers were first {_ATTEMPTS} times in a row")


def _attempt(job: Job, work: Path, partition: str, content: bytes) -> tuple[str, str, dict[str, Any]]:
    repository, remote = _places(job)
    _git(work.parent, "clone", "--quiet", repository, str(work))
    _initialized(work)
    pointer_path = f"{job.config.data.dvc.path}/{partition}.parquet.dvc"
    before = _pointer(work / pointer_path)
    target = work / pointer_path.removesuffix(".dvc")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    after = _pushed(work, target, remote)
    tag = f"{job.config.data.dvc.path}/{partition}/{after['md5'][:12]}"
    if before != after:
        _git(work, "add", "--all")
        _git(work, *_IDENTITY, "commit", "--quiet", "-m", f"{job.config.name} {partition}: {after['md5']}")
    if before == after and (known := _git(work, "tag", "--list", tag)):
        return _git(work, "rev-list", "-n", "1", known), tag, after
    _git(work, *_IDENTITY, "tag", "--force", tag)
    _push(work, tag)
    return _git(work, "rev-parse", "HEAD"), tag, after


def _initialized(work: Path) -> None:
    """Makes the clone a DVC repository if it is none yet; the first push brings that along."""
    if (work / ".dvc").exists():
        return
    from dvc.repo import Repo

    _hush()
    with Repo.init(str(work)) as repo, repo.config.edit() as settings:
        settings["core"]["analytics"] = False
        settings["core"]["autostage"] = False


def _hush() -> None:
    """DVC's hints ("to track the changes with git, run...") are for people at a terminal; here git follows by itself."""
    logging.getLogger("dvc").setLevel(logging.WARNING)


def _pushed(work: Path, target: Path, remote: str) -> dict[str, Any]:
    """Adds the file to DVC and brings its content to the remote; returns the pointer."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    _hush()
    with Repo(str(work)) as repo:
        with repo.config.edit("local") as settings:
            settings["remote"] = {"mlops": {"url": remote}}
        repo.add(str(target))
        try:
            repo.push([str(target)], remote="mlops")
        except (DvcException, OSError) as error:
            raise Transient(f"DVC remote {remote} did not take {target.name}: {error}") from error
    pointer = _pointer(Path(f"{target}.dvc"))
    if pointer is None:
        raise DataError(f"{target.name}: DVC wrote no pointer")
    return pointer


def _pointer(path: Path) -> dict[str, Any] | None:
    return dict(yaml.safe_load(path.read_text())["outs"][0]) if path.exists() else None


def _push(work: Path, tag: str) -> None:
    try:
        _git(work, "push", "--quiet", "--atomic", "origin", "HEAD:main", f"+refs/tags/{tag}")
    except Transient as error:
        if any(word in str(error) for word in ("rejected", "fetch first", "cannot lock ref", "failed to push")):
            raise ConflictError(str(error)) from error
        raise


def _places(job: Job) -> tuple[str, str]:
    deployment: Deployment = job.deployment
    dvc = job.config.data.dvc
    return deployment.source(dvc.repository), deployment.source(dvc.remote)


def _git(folder: Path, *arguments: str) -> str:
    """Output of a git command.

    :raises Transient: with what git said, if it fails.
    """
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise Transient(f"git {arguments[0]} failed in the data repository: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()
