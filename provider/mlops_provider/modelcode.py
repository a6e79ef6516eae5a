"""A model's code travels with the model: its directory as a content-addressed archive, verified before it is imported."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.abc
import importlib.util
import io
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import yaml

from mlops_provider import config as configs
from mlops_provider.checks import Frozen
from mlops_provider.config import ModelConfig
from mlops_provider.exceptions import ConfigError, IntegrityError, MlopsError
from mlops_provider.storage import Storage, digest, join

_SKIPPED = {"__pycache__", ".ipynb_checkpoints"}
_TESTS = "tests/"
_CHANGED = "-changed"
_PATIENCE = 10
_OTHER_WAYS = {"__import__", "import_module", "exec", "eval"}
_EPOCH = (1980, 1, 1, 0, 0, 0)


class CodeRef(Frozen):
    """Where the code archive of a model lies, and its sha256."""

    uri: str
    sha256: str


class Model:
    """A model as it was packed: its configuration and its files, read from a verified archive.

    :ivar config: the merged configuration.
    :ivar ref: where the archive lies.
    :ivar code_hash: hash of the model's Python files and suites. The configuration is not part of it: fingerprints take
        the sections that matter to them, so that a changed gate does not make a new model. Neither are the tests.
    """

    def __init__(self, archive: bytes, ref: CodeRef) -> None:
        self.ref = ref
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            self._files = {name: packed.read(name) for name in packed.namelist()}
        self.config: ModelConfig = configs.validate(yaml.safe_load(self._files["model.yaml"]), f"{ref.uri}/model.yaml")
        shaping = {name: data for name, data in self._files.items() if name != "model.yaml" and name not in self.tests}
        self._imported: dict[str, tuple[str, ...]] = {}
        self.code_hash = digest({name: hashlib.sha256(data).hexdigest() for name, data in shaping.items()})

    @property
    def files(self) -> dict[str, bytes]:
        """Every file of the archive by its path in the model's directory."""
        return dict(self._files)

    @property
    def tests(self) -> tuple[str, ...]:
        """The files of the model's own tests."""
        return tuple(name for name in self._files if name.startswith(_TESTS))

    def read(self, name: str) -> bytes:
        """A file of the model's directory.

        :raises ConfigError: if the archive has none of that name.
        """
        if name not in self._files:
            raise ConfigError(f"{self.config.name}: there is no {name} in the model's directory ({self.ref.uri})")
        return self._files[name]

    def function(self, reference: str) -> Callable[..., Any]:
        """A function of the model's code, named like ``features.py:build``.

        :raises ConfigError: if the file or the function is not there.
        """
        file, name = reference.split(":")
        self.read(file)
        module = self._module(file.removesuffix(".py"))
        found = getattr(module, name, None)
        if not callable(found):
            raise ConfigError(f"{self.config.name}: {file} has no function {name}()")
        return found  # type: ignore[no-any-return]

    def imported(self, reference: str) -> tuple[str, ...]:
        """The files that a function's module is made of: its own, and those of the archive that it imports, directly or not.

        Where that cannot be read from the source, all Python files but the tests are.
        """
        file = reference.split(":")[0]
        if file not in self._imported:
            self._imported[file] = self._reached(file)
        return self._imported[file]

    def _reached(self, file: str) -> tuple[str, ...]:
        found: set[str] = set()
        waiting = [file]
        while waiting:
            name = waiting.pop()
            if name in found or name not in self._files:
                continue
            found.add(name)
            siblings = _siblings(self._files[name])
            if siblings is None:
                return tuple(sorted(n for n in self._files if n.endswith(".py") and n not in self.tests))
            waiting += [f"{sibling}.py" for sibling in siblings]
        return tuple(sorted(found))

    def _module(self, stem: str) -> ModuleType:
        """Imports from the archive under a name of its own, so that two versions of one model can be at work at once."""
        package = f"mlops_code_{self.ref.sha256[:16]}"
        if package not in sys.modules:
            parent = ModuleType(package)
            parent.__path__ = []
            sys.modules[package] = parent
            sys.meta_path.append(_ArchiveFinder(package, self._files))
        try:
            return importlib.import_module(f"{package}.{stem}")
        except (Exception, SystemExit) as error:
            told = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{self.config.name}: {stem}.py cannot be imported: {told}") from error


def _siblings(source: bytes) -> set[str] | None:
    """What may be a module beside this one among the names that it imports; None if it has other ways to import."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return None
    if any(getattr(node, "id", getattr(node, "attr", None)) in _OTHER_WAYS for node in nodes):
        return None
    relative = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
    return {(node.module or "").replace(".", "/") for node in relative} | {
        a.name for node in relative for a in node.names
    }


class _ArchiveFinder(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports `package.module` from the files of an archive, in memory: nothing is left behind on a worker."""

    def __init__(self, package: str, files: dict[str, bytes]) -> None:
        self._package, self._files = package, files

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not fullname.startswith(f"{self._package}.") or self._file(fullname) not in self._files:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self._file(fullname))

    def get_source(self, fullname: str) -> str:
        return self._files[self._file(fullname)].decode()

    def get_filename(self, fullname: str) -> str:
        return f"{self._package}/{self._file(fullname)}"

    def _file(self, fullname: str) -> str:
        return fullname.removeprefix(f"{self._package}.").replace(".", "/") + ".py"


def pack(directory: str | Path, environment: str, storage: Storage, root: str, *, commit: str = "") -> Model:
    """Packs a model's directory into its archive under the artifact root, if it is not there yet.

    :param commit: that the directory is of, if it is no git repository itself.

    :raises ConfigError: if model.yaml is not valid.
    """
    config = configs.load(directory, environment)
    archive = _zipped(_contents(directory, config))
    sha256 = hashlib.sha256(archive).hexdigest()
    uri = join(root, "code", config.name, f"{sha256}.zip")
    if commit := commit or _commit(directory):
        storage.create(join(root, "code", config.name, f"{sha256}.commits", commit), b"")
    storage.create(uri, archive)
    return Model(archive, CodeRef(uri=uri, sha256=sha256))


def commits(ref: CodeRef, storage: Storage) -> tuple[str, ...]:
    """The git commits that the archive was packed at, with ``-changed`` where the model's directory held changes that were not
    committed; those without come first. Empty if it was not packed from a git repository."""
    folder = f"{ref.uri.removesuffix('.zip')}.commits"
    return tuple(sorted(storage.names(folder), key=lambda name: (name.endswith(_CHANGED), name)))


def _commit(directory: str | Path) -> str:
    """The commit that is checked out where a model lies; empty if that is no git repository, or git does not say."""
    place = Path(directory).resolve()
    if not any((folder / ".git").exists() for folder in (place, *place.parents)):
        return ""
    try:
        head, status = _git(place, "rev-parse", "HEAD"), _git(place, "status", "--porcelain", "--", ".")
    except (MlopsError, OSError):
        return ""
    if not re.fullmatch(r"[0-9a-f]{40,64}", head or ""):
        return ""
    return f"{head}{_CHANGED}" if status is None or status else str(head)


def _git(place: Path, *words: str) -> str | None:
    """What git says; None if it fails."""
    from mlops_provider.steps.data import git

    done = git.run(words, str(place), folder=place, extra={"GIT_OPTIONAL_LOCKS": "0"}, timeout=_PATIENCE)
    return None if done.returncode else done.stdout.decode().strip()


def unpack(ref: CodeRef, storage: Storage) -> Model:
    """The model in an archive.

    :raises IntegrityError: if the archive is not the one that the hash names.
    """
    archive = storage.read(ref.uri)
    if hashlib.sha256(archive).hexdigest() != ref.sha256:
        raise IntegrityError(f"{ref.uri} does not have the sha256 {ref.sha256}: it was damaged or replaced")
    return Model(archive, ref)


def _contents(directory: str | Path, config: ModelConfig) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for folder in configs.bases(directory):
        files |= {str(name): (folder / name).read_bytes() for name in _files(folder)}
    files["model.yaml"] = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=True).encode()
    return files


def _files(folder: Path) -> Iterator[PurePosixPath]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        configuration = len(name.parts) == 1 and name.match("model*.yaml")
        hidden = any(part in _SKIPPED or part.startswith(".") for part in name.parts)
        if path.is_file() and not configuration and not hidden:
            yield PurePosixPath(name.as_posix())


def _zipped(files: dict[str, bytes]) -> bytes:
    """A deterministic archive: sorted, without compression, dates or permissions of its own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
    return buffer.getvalue()
