"""What has arrived: partitions of a source that are there and complete, versions in a data repository.

No Airflow in here: sensors and triggers look with this, each in its own way of waiting.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from mlops_provider.checks import Frozen
from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import DataError
from mlops_provider.partitions import Frequency, is_partition, start
from mlops_provider.sections import Completeness
from mlops_provider.steps.data.git import checked, session
from mlops_provider.storage import Storage, digest

REMEMBERED = 400
_GIT_PATIENCE = 60
_NO_ACCESS = DvcAccess()  # but that of the process itself


class Source(Frozen):
    """A source of partitions and when one of them counts as complete.

    :param uri: file or folder of a partition, with ``{partition}``.
    :param partition: the one that is waited for; None for all.
    """

    uri: str
    frequency: Frequency = "monthly"
    when: Completeness = Completeness()
    partition: str | None = None

    @model_validator(mode="after")
    def _usable(self) -> Source:
        if "{partition}" not in self.uri:
            raise ValueError(f"{self.uri}: must hold {{partition}}: each partition has files of its own")
        if found := set(self.uri) & set("*?[]"):
            raise ValueError(f"{self.uri}: must not hold {' '.join(sorted(found))}: it names files, it is no pattern")
        if "@" in self.uri.partition("://")[2].split("/")[0]:
            raise ValueError("the URI of a source must not hold credentials: name a connection")
        if self.partition is not None:
            start(self.partition, self.frequency)
        if self.when.complete == "marker":
            self.when.marker_of(self.uri)
        return self

    def place(self, partition: str) -> str:
        """URI of a partition."""
        return self.uri.replace("{partition}", partition)


class Found(Frozen):
    """The files of a partition as they lie there.

    :param token: changes when one of the files changes.
    :param changed: when the newest of them was written, in seconds since 1970; None if the file system does not say.
    """

    token: str
    files: tuple[str, ...]
    changed: float | None = None


class Lookout:
    """Looks at a source again and again. What it has to remember between two looks is `before`.

    :ivar before: token of each partition at the last look, whether complete or not.
    :ivar waits: why a partition that is there is not complete, as of the last look.
    """

    def __init__(self, source: Source, before: Mapping[str, str] | None = None) -> None:
        self.source = source
        self.before: dict[str, str] = dict(before or {})
        self.waits: dict[str, str] = {}
        self._rows: dict[str, int | None] = {}

    def look(self, storage: Storage) -> dict[str, str]:
        """Token of each partition that is there and complete.

        :raises OSError: if the source cannot be looked at.
        :raises DataError: if its bucket does not exist.
        """
        found = _found(storage, self.source.uri, self.source)
        markers = self._markers(storage)
        verdicts = {name: self._missing(storage, name, files, markers) for name, files in found.items()}
        self.waits = {name: why for name, why in verdicts.items() if why}
        self.before = {name: files.token for name, files in found.items()}
        return {name: files.token for name, files in found.items() if not verdicts[name]}

    def _markers(self, storage: Storage) -> dict[str, Found]:
        when = self.source.when
        if when.complete != "marker":
            return {}
        return _found(storage, when.marker_of(self.source.uri), self.source, empty=True)

    def _missing(self, storage: Storage, name: str, files: Found, markers: Mapping[str, Found]) -> str:
        """What the partition lacks to be complete; empty if nothing."""
        if self.source.when.complete == "marker":
            return _unmarked(files, markers.get(name))
        if self.before.get(name) != files.token:
            return "its files may still change"
        return self._too_few(storage, files) if self.source.when.complete == "rows" else ""

    def _too_few(self, storage: Storage, files: Found) -> str:
        if files.token not in self._rows:
            self._rows = {token: self._rows[token] for token in self.before.values() if token in self._rows}
            self._rows[files.token] = _rows(storage, self.source.uri, files)
        rows, asked = self._rows[files.token], self.source.when.rows
        if rows is None:
            return "it is not readable as parquet"
        return "" if rows >= asked else f"{rows} rows, {asked} are asked for"


class Cursor(Frozen):
    """What has been announced already.

    :param seen: token by name, of the newest `REMEMBERED` names where they have an order.
    :param floor: names up to this one are taken for announced.
    """

    seen: dict[str, str] = {}
    floor: str = ""

    def news(self, complete: Mapping[str, str]) -> list[str]:
        """Names that are new or have changed, sorted."""
        return sorted(name for name, token in complete.items() if name > self.floor and self.seen.get(name) != token)

    def after(self, complete: Mapping[str, str], *, remembered: int | None = REMEMBERED) -> Cursor:
        """The cursor once all of these have been announced."""
        seen = {**self.seen, **{name: token for name, token in complete.items() if name > self.floor}}
        dropped = sorted(seen)[:-remembered] if remembered else []
        floor = dropped[-1] if dropped else self.floor
        return Cursor(seen={name: token for name, token in seen.items() if name > floor}, floor=floor)


class Repository(Frozen):
    """Versions in a data repository: its tags, or the commits of a branch.

    :param uri: path or URL of the git repository.
    :param tags: shell pattern of the tags that count.
    :param branch: look at the head of this branch instead: each commit on it is a version.
    :raises ConfigError: if git may not be given this URL.
    """

    uri: str
    tags: str = "*"
    branch: str | None = None

    @model_validator(mode="after")
    def _usable(self) -> Repository:
        checked(self.uri, _NO_ACCESS)
        return self

    def versions(self, access: DvcAccess = _NO_ACCESS) -> dict[str, str]:
        """Revision of each version, by tag; or by branch.

        :param access: what lets us in.
        :raises AccessDenied: if the repository refuses us.
        :raises Transient: if it cannot be reached.
        """
        with session(self.uri, access) as git:
            told = git("ls-remote", "--quiet", "--heads", "--tags", "--", git.url, timeout=_GIT_PATIENCE)
        wanted = "refs/heads/" if self.branch else "refs/tags/"
        revisions: dict[str, str] = {}
        for line in told.splitlines():
            revision, _, ref = line.partition("\t")
            # The line of a tag with ^{} follows its own, and names the commit that an annotated tag stands for.
            name = ref.removesuffix("^{}").removeprefix(wanted)
            if ref.startswith(wanted) and self._counts(name):
                revisions[name] = revision
        return revisions

    def _counts(self, name: str) -> bool:
        return name == self.branch if self.branch else fnmatch.fnmatchcase(name, self.tags)


def _found(storage: Storage, uri: str, source: Source, *, empty: bool = False) -> dict[str, Found]:
    """The files of each partition, by partition; none where there is nothing with content."""
    fs, path = storage.filesystem(uri.rstrip("/"))
    pattern = _pattern(path)
    glob = path.replace("{partition}", source.partition or "*")
    matches = fs.glob(glob, detail=True) or _nothing(fs, glob, uri)
    partitions: dict[str, Found] = {}
    for place, info in matches.items():
        match = pattern.search(place)
        if match is None or not is_partition(name := match["partition"], source.frequency):
            continue
        files = _contents(fs, place) if info["type"] == "directory" else {place: info}
        if files := {at: about for at, about in files.items() if about["size"] or empty}:
            partitions[name] = _described(place, files)
    return partitions


def _nothing(fs: Any, glob: str, uri: str) -> dict[str, Any]:
    """No files, if there are none; a glob says the same of a bucket that does not exist.

    :raises DataError: if it does not.
    """
    try:
        fs.ls(glob.split("*")[0].rpartition("/")[0], detail=False)
    except FileNotFoundError as error:
        # The server refused. Of a folder that is empty there is no refusal: fsspec itself says so.
        if error.__cause__ is not None:
            raise DataError(f"{uri}: {error}") from error
    except NotADirectoryError:
        pass
    return {}


def _pattern(path: str) -> re.Pattern[str]:
    """Finds the partition in a path; a second ``{partition}`` must hold the same."""
    escaped = re.escape(path.lstrip("/")).replace(re.escape("{partition}"), "{partition}")
    first = escaped.replace("{partition}", "(?P<partition>[^/]+)", 1)
    return re.compile(first.replace("{partition}", "(?P=partition)") + "$")


def _contents(fs: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Files below a folder, those aside that begin with ``_`` or ``.``: markers and what is still being written."""
    found = fs.find(folder, detail=True)
    return {
        place: info
        for place, info in found.items()
        if not any(part.startswith(("_", ".")) for part in place[len(folder) :].strip("/").split("/"))
    }


def _described(place: str, files: Mapping[str, Mapping[str, Any]]) -> Found:
    stamps = [(at[len(place) :], int(info["size"]), _stamp(info)) for at, info in sorted(files.items())]
    times = [_time(info) for info in files.values()]
    changed = None if None in times else max(time for time in times if time is not None)
    return Found(token=digest(stamps)[:12], files=tuple(sorted(files)), changed=changed)


def _stamp(info: Mapping[str, Any]) -> str:
    """What tells one content of a file from the next without reading it."""
    etag = info.get("ETag") or info.get("etag")
    return str(etag).strip('"') if etag else f"{info.get('ino')}-{_time(info)}"


def _time(info: Mapping[str, Any]) -> float | None:
    time = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or info.get("created")
    return float(time.timestamp() if hasattr(time, "timestamp") else time) if time else None


def _unmarked(files: Found, marker: Found | None) -> str:
    """A marker that is older than a file was set before that file was written anew."""
    if marker is None:
        return "its marker is not there"
    older = files.changed is not None and marker.changed is not None and marker.changed < files.changed
    return "its marker is older than its files" if older else ""


def _rows(storage: Storage, uri: str, files: Found) -> int | None:
    """Rows of parquet files by their footers; None if one has none, as while it is being written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, _ = storage.filesystem(uri)
    rows = 0
    for path in files.files:
        try:
            with fs.open(path, "rb") as file:
                rows += pq.ParquetFile(file).metadata.num_rows
        except (pa.ArrowInvalid, FileNotFoundError):
            return None
    return rows
