"""Files by URI (local path, file://, s3://, ...): opened by fsspec, created once, replaced atomically, named by hash."""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import (
    AccessDenied,
    DataError,
    IntegrityError,
    MissingLibraryError,
    RequestError,
    Transient,
)

Options = Mapping[str, Any]
_FILES = "files:"
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError")
_CONFLICT_PAUSES = (0.1, 0.4, 1.6, 6.4)


class Artifact(Frozen):
    """A file that a step wrote or read: where it lies and what it contains.

    :param hash: sha256 of the bytes in hex, or ``etag:...`` where an object store answers for the content; ``files:...`` for
        a folder, over the names and hashes of its files.
    :param rows: number of rows, for tables.
    """

    uri: str
    hash: str
    size: int
    rows: int | None = None

    @property
    def many(self) -> bool:
        """Whether it is a folder."""
        return self.hash.startswith(_FILES)


class Storage:
    """One set of credentials for all URIs of a deployment.

    :param options: fsspec's storage options by protocol, for instance ``{"s3": {"key": ..., "secret": ...}}``.
    """

    def __init__(self, options: Mapping[str, Options] | None = None) -> None:
        self._options = options or {}

    def filesystem(self, uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system of a URI and the path in it.

        :raises RequestError: if nothing opens URIs of this kind.
        :raises MissingLibraryError: if what opens them is not installed.
        """
        protocol = uri.split("://", 1)[0] if "://" in uri else "file"
        if protocol in ("s3a", "s3n") and protocol not in self._options:
            raise RequestError(
                f"{uri}: write s3:// in place of {protocol}://, which is the name that Hadoop gives to S3"
            )
        try:
            fs, path = fsspec.core.url_to_fs(uri, **self._options.get(protocol, {}))
        except ImportError as error:
            raise MissingLibraryError(f"{uri}: {error}. fsspec needs it to open {protocol}://") from error
        except ValueError as error:
            if "::" in uri or protocol in fsspec.available_protocols():
                raise
            raise RequestError(
                f"{uri}: nothing opens {protocol}://. Give a local path, s3://, or what fsspec has a file system for"
            ) from error
        # Other writers are at work: a cached listing would hide what they have just created.
        fs.use_listings_cache = False
        fs.invalidate_cache()
        return fs, path

    @contextmanager
    def reaching(self, uri: str) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
        """The file system of a URI and the path in it, for a first look at what may not be open to us.

        :raises AccessDenied: if there are no credentials, or they are not let in.
        """
        try:
            yield self.filesystem(uri)
        except Exception as error:
            refused = isinstance(error, PermissionError) and not self.is_local(uri)
            if not refused and type(error).__name__ not in _NO_CREDENTIALS:
                raise
            raise AccessDenied(
                f"{uri}: {error}. Check the credentials: of the connection in the URI (s3://connection@bucket/key), else of "
                "[mlops] aws_conn_id, or in the environment"
            ) from error

    def is_local(self, uri: str) -> bool:
        return "://" not in uri or uri.startswith("file://")

    def exists(self, uri: str) -> bool:
        fs, path = self.filesystem(uri)
        return bool(fs.exists(path))

    def holds(self, artifact: Artifact) -> bool:
        """Whether the file is there in its full size; its content is verified when it is fetched."""
        fs, path = self.filesystem(artifact.uri)
        try:
            return int(fs.info(path)["size"]) == artifact.size
        except FileNotFoundError:
            return False

    def open(self, uri: str) -> BinaryIO:
        """The file for reading.

        :raises DataError: if there is none.
        """
        try:
            with self.reaching(uri) as (fs, path):
                return cast("BinaryIO", fs.open(path, "rb"))
        except FileNotFoundError as error:
            raise DataError(f"{uri} does not exist") from error

    def read(self, uri: str) -> bytes:
        with self.open(uri) as file:
            return file.read()

    def read_json(self, uri: str) -> Any:
        try:
            return json.loads(self.read(uri))
        except ValueError as error:
            raise DataError(f"{uri} is not valid JSON: {error}") from error

    def names(self, uri: str) -> list[str]:
        """Names of the entries of a folder, sorted; none if the folder does not exist."""
        fs, path = self.filesystem(uri)
        try:
            found = fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in found)

    def filled(self, uri: str, blank: str) -> list[str]:
        """What stands in the place of a blank in the URIs of files and folders that are there, sorted.

        Nothing else in the URI is a pattern: folders may be called ``a[1]`` or ``b*``.
        """
        fs, path = self.filesystem(uri)
        first, *rest = (re.escape(part) for part in path.split(blank))
        pattern = re.compile(first + "([^/]+)" + r"\1".join(rest))
        folder = path.partition(blank)[0].rpartition("/")[0]
        below = fs.find(folder, maxdepth=path.count("/") - folder.count("/"), withdirs=True)
        return sorted({match[1] for found in below if (match := pattern.fullmatch(found.rstrip("/")))})

    def create(self, uri: str, content: bytes) -> bool:
        """Creates the file with this content if there is none: False if there was one, whoever wrote it.

        The one compare-and-set of the house. On local files the content is complete before the name appears
        (a hard link fails if the name is taken); on S3 it is a put with ``If-None-Match: *``.

        :raises Transient: if other writers keep putting the same object and none of them is done.
        """
        fs, path = self.filesystem(uri)
        if self.is_local(uri):
            return _link_new(Path(path), content)
        for pause in _CONFLICT_PAUSES:
            try:
                fs.pipe_file(path, content, mode="create")
            except OSError as error:
                if isinstance(error, FileExistsError) or _refusal(error) == "PreconditionFailed":
                    return False
                if _refusal(error) != "ConditionalRequestConflict":
                    raise
                # Another put of this name is under way and may yet fail: only a second look can tell.
                time.sleep(pause)
            else:
                return True
        raise Transient(f"{uri}: other writers were putting this object {len(_CONFLICT_PAUSES)} times in a row")

    def write(self, uri: str, content: bytes) -> Artifact:
        """Writes or replaces the file: a reader sees the old content or the new one, never a part."""
        fs, path = self.filesystem(uri)
        if self.is_local(uri):
            os.replace(_temporary(Path(path), content), path)
        else:
            fs.pipe_file(path, content)
        return Artifact(uri=uri, hash=hashlib.sha256(content).hexdigest(), size=len(content))

    def write_json(self, uri: str, value: Any) -> Artifact:
        return self.write(uri, canonical_json(value, indent=1))

    def upload(self, source: Path, uri: str, *, rows: int | None = None) -> Artifact:
        """Copies a local file to a URI, whole or not at all."""
        fs, path = self.filesystem(uri)
        digest = file_hash(source)
        if self.is_local(uri):
            target = Path(path)
            with _room(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
                    copy = Path(folder, target.name)
                    shutil.copyfile(source, copy)
                    os.replace(copy, target)
        else:
            fs.put_file(str(source), path)
        return Artifact(uri=uri, hash=digest, size=source.stat().st_size, rows=rows)

    def describe(self, uri: str) -> Artifact:
        """What lies at a URI now; on S3 the ETag stands for the content, so that nothing is downloaded.

        :raises DataError: if there is nothing.
        """
        try:
            with self.reaching(uri) as (fs, path):
                info = fs.info(path)
        except FileNotFoundError as error:
            raise DataError(f"{uri} does not exist") from error
        return Artifact(uri=uri, hash=self._content(uri, fs, path, info), size=int(info["size"]))

    def describe_files(self, uri: str, meant: Callable[[str], bool]) -> Artifact:
        """What lies in a folder now, its files as one.

        :param meant: says of a name below the folder whether it counts.
        :raises DataError: if a file goes away meanwhile.
        """
        fs, path = self.filesystem(uri)
        found = {place[len(path) :].lstrip("/"): (place, info) for place, info in fs.find(path, detail=True).items()}
        files = {name: told for name, told in found.items() if meant(name)}
        try:
            hashes = {name: self._content(uri, fs, *told) for name, told in files.items()}
        except FileNotFoundError as error:
            raise DataError(f"{uri}: a file went away while it was read: {error}") from error
        size = sum(int(info["size"]) for _, info in files.values())
        return Artifact(uri=uri, hash=_FILES + digest(hashes), size=size)

    def _content(self, uri: str, fs: Any, path: str, info: Mapping[str, Any]) -> str:
        """Stores other than S3 have names of their own for an ETag; fsspec makes one of all that they tell of a file."""
        if self.is_local(uri):
            return file_hash(Path(path))
        return f"etag:{str(info.get('ETag') or fs.ukey(path)).strip(chr(34))}"

    def modified(self, uri: str) -> dt.datetime | None:
        """When the file was last written, UTC; None if it is not there.

        :raises DataError: if the file system does not tell.
        """
        fs, path = self.filesystem(uri)
        try:
            info = fs.info(path)
        except FileNotFoundError:
            return None
        found = next((info[key] for key in ("LastModified", "mtime", "updated") if info.get(key)), None)
        if isinstance(found, int | float):
            return dt.datetime.fromtimestamp(found, dt.UTC)
        if not isinstance(found, dt.datetime):
            raise DataError(f"{uri}: its file system does not tell when it was written")
        return found

    def fetch(self, artifact: Artifact) -> bytes:
        """The content of an artifact, verified.

        :raises IntegrityError: if the file no longer has the content that the artifact names.
        """
        if artifact.hash.startswith("etag:"):
            self.same(artifact, self.describe(artifact.uri).hash)
            return self.read(artifact.uri)
        content = self.read(artifact.uri)
        self.same(artifact, hashlib.sha256(content).hexdigest())
        return content

    def download(self, artifact: Artifact, target: Path) -> None:
        """Copies an artifact to a local file, in pieces, verified as by `fetch`."""
        found = hashlib.sha256()
        with self.open(artifact.uri) as source, target.open("wb") as file:
            while chunk := source.read(1 << 20):
                found.update(chunk)
                file.write(chunk)
        by_etag = artifact.hash.startswith("etag:")
        self.same(artifact, self.describe(artifact.uri).hash if by_etag else found.hexdigest())

    @staticmethod
    def same(artifact: Artifact, found: str) -> None:
        """Compares the hash that was found with the one that was recorded.

        :raises IntegrityError: if they differ.
        """
        if found != artifact.hash:
            raise IntegrityError(
                f"{artifact.uri} has changed: its content is {found[:16]}, expected was {artifact.hash[:16]}. "
                "It was replaced after it was recorded; start the loop again to take the new content."
            )


def canonical_json(value: Any, *, indent: int | None = None) -> bytes:
    """The same bytes for the same value: sorted keys, no NaN."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, sort_keys=True, indent=indent, separators=separators, allow_nan=False).encode()


def digest(value: Any) -> str:
    """sha256 of a JSON value in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a local file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def join(root: str, *parts: str) -> str:
    """A URI below a root."""
    return "/".join((root.rstrip("/"), *(part.strip("/") for part in parts)))


def _refusal(error: OSError) -> str:
    """S3's own code for why it refused a put; empty if it said none."""
    answer = getattr(error.__cause__, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


@contextmanager
def _room(target: Path) -> Iterator[None]:
    """:raises Transient: if the disk is full, which the system tells without saying where."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Transient(
            f"{target} was not written: {error.strerror}. Make room there; a retry goes on from here"
        ) from error


def _temporary(target: Path, content: bytes) -> str:
    with _room(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".tmp-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
        except BaseException:
            os.unlink(name)
            raise
    return name


def _link_new(target: Path, content: bytes) -> bool:
    name = _temporary(target, content)
    try:
        os.link(name, target)
    except FileExistsError:
        return False
    finally:
        os.unlink(name)
    return True
