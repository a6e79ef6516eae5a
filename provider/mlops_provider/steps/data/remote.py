"""A DVC remote: files by the md5 of their content, laid out as DVC lays them out, reached through fsspec.

The content goes through our own storage and not through `dvc push`, as that takes an object that is there for a good one, and
wants the credentials in a configuration. What lies there is what DVC would have put there: `dvc pull` and `dvc status -c` agree.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mlops_provider.checks import Frozen
from mlops_provider.exceptions import AccessDenied, ConfigError, DataError, MlopsError, Transient
from mlops_provider.storage import Options, Storage, join

_CHUNK = 1 << 20
_PROBE = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 10, "retries": {"max_attempts": 1}}}
_LEFT_OVER = ".mlops-tmp"


class Pointer(Frozen):
    """What a .dvc file names: one file, or a folder (its md5 ends in ``.dir``).

    :param hash: empty for files that DVC 2 wrote, whose content lies at another place in the remote.
    """

    md5: str
    size: int | None = None
    files: int = 1
    hash: str = "md5"

    @property
    def folder(self) -> bool:
        return self.md5.endswith(".dir")


class Remote:
    """A DVC remote.

    :param options: fsspec's options by protocol.
    """

    def __init__(self, uri: str, options: dict[str, dict[str, Any]]) -> None:
        self.root, self.storage, self._options = uri.rstrip("/"), Storage(options), options

    def uri(self, md5: str, algorithm: str = "md5") -> str:
        """Where content lies."""
        if not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5):
            raise DataError(f"{md5!r} is no md5 as DVC writes it")
        return join(self.root, *(("files", "md5") if algorithm else ()), md5[:2], md5[2:])

    @property
    def for_dvc(self) -> dict[str, str]:
        """DVC's settings for this remote, without credentials."""
        if self.storage.is_local(self.root):
            return {"url": self.storage.filesystem(self.root)[1]}
        s3 = self._options.get("s3", {})
        endpoint = s3.get("endpoint_url") or s3.get("client_kwargs", {}).get("endpoint_url")
        return {"url": self.root} | ({"endpointurl": str(endpoint)} if endpoint else {})

    def beside(self, url: str, endpoint: str = "") -> Remote:
        """A remote at another place, with the same credentials.

        :param endpoint: of its S3 server, if it is another one.
        """
        options = self._options
        if endpoint:
            s3 = dict(options.get("s3", {}))
            kept = {key: value for key, value in s3.pop("client_kwargs", {}).items() if key != "endpoint_url"}
            options = options | {"s3": s3 | {"client_kwargs": kept, "endpoint_url": endpoint}}
        return Remote(url, options)

    def probe(self) -> None:
        """Lists the remote, with little patience.

        :raises AccessDenied: if the credentials are wrong; `Transient` if it does not answer; `ConfigError` if it has no bucket.
        """
        options: dict[str, Options] = {"s3": self._options.get("s3", {}) | _PROBE} | {
            key: value for key, value in self._options.items() if key != "s3"
        }
        with self._translated("list", self.root):
            fs, path = Storage(options).filesystem(self.root)
            try:
                fs.ls(path, detail=False)
            except FileNotFoundError:
                self._reachable(fs, path)

    def _reachable(self, fs: Any, path: str) -> None:
        """An empty remote is a good one, if there is something to put it into."""
        if self.storage.is_local(self.root):
            return
        bucket = path.split("/", 1)[0]
        try:
            fs.ls(bucket, detail=False)
        except FileNotFoundError as error:
            raise ConfigError(f"DVC remote {self.root}: there is no bucket {bucket!r}") from error

    def put(self, source: Path, md5: str) -> None:
        """Brings a file to the remote, whole or not at all; one that is there is replaced and counts as new.

        :raises Transient: if the remote does not take it.
        """
        uri, size = self.uri(md5), source.stat().st_size
        with self._translated("take", uri):
            fs, path = self.storage.filesystem(uri)
            if self.storage.is_local(uri):
                _put_local(source, Path(path), Path(fs._strip_protocol(self.root)))
            else:
                fs.put_file(str(source), path)
        if self.size(md5) != size:
            raise Transient(f"DVC remote {self.root} took {size} bytes of {md5} and holds {self.size(md5)}")

    def size(self, md5: str) -> int | None:
        """Size of an object, None if it is not there."""
        info = self._info(md5)
        return int(info["size"]) if info else None

    def holds(self, pointer: Pointer) -> bool:
        """Whether the content of a file, or the listing of a folder, is there; it is verified when it is fetched."""
        return self._info(pointer.md5, pointer.hash) is not None

    def lists(self, folder: str) -> bool:
        """Whether the listing of a folder is there, as DVC or as DVC 2 puts it."""
        return any(self.holds(Pointer(md5=folder, hash=algorithm)) for algorithm in ("md5", ""))

    def written(self, md5: str) -> dt.datetime | None:
        """When an object was written, None if it is not there."""
        with self._translated("describe", self.uri(md5)):
            return self.storage.modified(self.uri(md5))

    def intact(self, md5: str, size: int) -> bool:
        """Whether the remote holds this content: by the store's own md5 where it has one, else by reading it.

        Of an object that was uploaded in parts only the size is looked at: such an upload is whole or not there.
        """
        info = self._info(md5)
        if info is None or int(info["size"]) != size:
            return False
        etag = str(info.get("ETag", "")).strip('"')
        if etag == md5 or "-" in etag:
            return True
        with self._translated("read", self.uri(md5)), self.storage.open(self.uri(md5)) as file:
            return hash_of(file) == md5

    def fetch(self, pointer: Pointer, target: Path, name: str) -> dict[str, str]:
        """Copies content to a local file, or the files of a folder to a local folder; verified.

        :param name: what it is, for errors.
        :returns: the md5 by the name of each file in the folder; that of a single file is empty.
        :raises DataError: naming the object that is missing or damaged.
        """
        if not pointer.folder:
            self._fetch_file(pointer.md5, target, name, pointer.hash)
            return {"": pointer.md5}
        found = {entry["relpath"]: entry["md5"] for entry in self._listing(pointer, name)}
        for relpath, md5 in found.items():
            path = target / relpath
            if not path.resolve().is_relative_to(target.resolve()):
                raise DataError(f"{name}: {self.uri(pointer.md5, pointer.hash)} names a file outside of it")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch_file(md5, path, f"{name}/{relpath}", pointer.hash)
        return found

    def read(self, md5: str, name: str) -> bytes:
        """Content by hash, verified.

        :raises DataError: naming the object that is missing or damaged.
        """
        uri = self.uri(md5)
        with self._translated("give", uri, name):
            content = self.storage.read(uri)
        _same(hashlib.md5(content, usedforsecurity=False).hexdigest(), md5, uri, name)
        return content

    def remove(self, md5: str) -> None:
        """Removes an object, if it is there."""
        uri = self.uri(md5)
        with self._translated("remove", uri):
            fs, path = self.storage.filesystem(uri)
            try:
                fs.rm_file(path)
            except FileNotFoundError:
                return

    def sweep(self, before: dt.datetime) -> None:
        """Removes what killed writers left behind, if it is older than this. On S3 that is for the bucket's lifecycle rule."""
        if not self.storage.is_local(self.root):
            return
        _, path = self.storage.filesystem(join(self.root, _LEFT_OVER))
        for file in Path(path).glob("*"):
            with self._translated("remove", str(file)):
                if file.stat().st_mtime < before.timestamp():
                    file.unlink(missing_ok=True)

    def members(self, folder: str) -> list[str]:
        """md5s of the files of a folder, by the folder's own."""
        pointer = Pointer(md5=folder)
        if not self.holds(pointer):
            pointer = Pointer(md5=folder, hash="")
        return [entry["md5"] for entry in self._listing(pointer, folder)]

    def _listing(self, pointer: Pointer, name: str) -> list[dict[str, str]]:
        uri = self.uri(pointer.md5, pointer.hash)
        with self._translated("give", uri, name):
            content = self.storage.read(uri)
        _same(hashlib.md5(content, usedforsecurity=False).hexdigest(), pointer.md5[:32], uri, name)
        return [{"md5": str(entry["md5"]), "relpath": str(entry["relpath"])} for entry in json.loads(content)]

    def _fetch_file(self, md5: str, target: Path, name: str, algorithm: str) -> None:
        uri, found = self.uri(md5, algorithm), hashlib.md5(usedforsecurity=False)
        with self._translated("give", uri, name), self.storage.open(uri) as source, target.open("wb") as file:
            while chunk := source.read(_CHUNK):
                found.update(chunk)
                file.write(chunk)
        _same(found.hexdigest(), md5, uri, name)

    def _info(self, md5: str, algorithm: str = "md5") -> dict[str, Any] | None:
        uri = self.uri(md5, algorithm)
        with self._translated("describe", uri):
            fs, path = self.storage.filesystem(uri)
            try:
                return dict(fs.info(path))
            except FileNotFoundError:
                return None

    @contextmanager
    def _translated(self, what: str, uri: str, name: str = "") -> Iterator[None]:
        """Errors of the file system in our words: retry, or do not."""
        where = f"{name}: {uri}" if name else uri
        told = f"DVC remote {self.root} did not {what} {where.removeprefix(self.root).lstrip('/') or 'its content'}"
        try:
            yield
        except MlopsError as error:
            if name and isinstance(error, DataError):
                raise DataError(f"{where} is missing in the DVC remote: {error}") from error
            raise
        except FileNotFoundError as error:
            raise DataError(f"{where} is missing in the DVC remote") from error
        except PermissionError as error:
            raise AccessDenied(
                f"DVC remote {self.root} did not {what} {where}: {error}. Check its credentials."
            ) from error
        except Exception as error:
            if _no_credentials(error):
                raise AccessDenied(
                    f"DVC remote {self.root}: {error}. Name an aws connection or set credentials."
                ) from error
            if not isinstance(error, OSError) and not type(error).__module__.startswith((
                "botocore",
                "aiohttp",
                "fsspec",
            )):
                raise
            raise Transient(f"{told}: {error}") from error


def hash_of(file: BinaryIO) -> str:
    """md5 of a file, as DVC computes it."""
    found = hashlib.md5(usedforsecurity=False)
    while chunk := file.read(_CHUNK):
        found.update(chunk)
    return found.hexdigest()


def _no_credentials(error: BaseException) -> bool:
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError")


def _put_local(source: Path, target: Path, root: Path) -> None:
    """A complete file appears under its name, or none; a kill leaves something only where no reader looks."""
    scratch = root / _LEFT_OVER / uuid.uuid4().hex
    for folder in (scratch.parent, target.parent):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with source.open("rb") as given, scratch.open("wb") as file:
            shutil.copyfileobj(given, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())
        scratch.chmod(0o444)  # as DVC does: content never changes under its hash
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def _same(found: str, expected: str, uri: str, name: str) -> None:
    if found != expected:
        raise DataError(f"{name}: {uri} does not have the content that its name promises (md5 {found}): it was damaged")
