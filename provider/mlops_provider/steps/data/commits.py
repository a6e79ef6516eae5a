"""A commit of the model's code: looked up in the repository that model.yaml names, never in one that a request names.

Git alone touches the repository, and only objects are read from it: nothing is checked out, so no hook, filter or link of
the repository's comes to work on the worker.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path, PurePosixPath

from mlops_provider import modelcode
from mlops_provider.checks import Frozen
from mlops_provider.exceptions import ConfigError, DataError, MlopsError, RequestError
from mlops_provider.modelcode import CodeRef
from mlops_provider.sections import REF, Code
from mlops_provider.steps.data import git
from mlops_provider.steps.step import Job, step

_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FILES, _BYTES, _PATIENCE = 2_000, 50 * 2**20, 300
# On the command line, so that no file of the worker's or the repository's has a say in it.
_CONFIG = ("-c", "fetch.fsckObjects=true", "-c", "protocol.version=2", "-c", "core.hooksPath=/dev/null")
# What git says where asking again is of no use; LC_ALL=C keeps it from saying so in another language.
_UNKNOWN = ("not our ref", "unadvertised object", "couldn't find remote ref")


class ResolveArguments(Frozen):
    """:param ref: branch, tag or full commit id, as somebody asked for it."""

    ref: str


class Commit(Frozen):
    """A commit that may be tested.

    :param sha: what the ref meant when it was resolved; this is what is tested.
    :param reviewed: whether it is reachable from a protected branch.
    """

    repository: str
    ref: str
    sha: str
    reviewed: bool


class ResolvedCode(Frozen):
    """A commit and the archive of the model as it is there."""

    commit: Commit
    code: CodeRef


@step("resolve_code", arguments=ResolveArguments, result=ResolvedCode, cached=False)
def resolve_code(job: Job, arguments: ResolveArguments) -> ResolvedCode:
    """Looks a ref up in the model's code repository and packs the model's directory as it is there.

    :raises RequestError: if the ref is not acceptable, not there, or not reviewed.
    :raises ConfigError: if the model has no code repository, or the commit holds no valid model.
    :raises AccessDenied: if the repository does not let the worker in.
    :raises Transient: if the repository cannot be reached.
    """
    code = job.config.data.code
    if code is None or code.repository is None:
        raise RequestError(f"{job.config.name}: a ref was asked for, and model.yaml names no data.code.repository")
    allowed(code, arguments.ref)
    repository = _place(job, code.repository)
    sha, heads = _advertised(repository, arguments.ref, code.protected)
    reviewed = sha in heads.values() or _reachable(repository, sha, heads)
    if not reviewed and not code.allow_untrusted_refs:
        raise RequestError(
            f"{arguments.ref} ({sha[:12]}) is not reachable from {', '.join(code.protected)}: only reviewed code is "
            "tested here, unless data.code.allow_untrusted_refs says otherwise"
        )
    commit = Commit(repository=code.repository, ref=arguments.ref, sha=sha, reviewed=reviewed)
    return ResolvedCode(commit=commit, code=_packed(job, repository, sha, code))


def allowed(code: Code, ref: str) -> None:
    """Whether a ref may be asked for at all, before git sees it.

    :raises RequestError: if it may not.
    """
    odd = ".." in ref or "//" in ref or "@{" in ref or ref.endswith(("/", ".", ".lock"))
    if not re.fullmatch(REF, ref) or ref.endswith("\n") or odd:
        raise RequestError(f"{ref!r} is no ref: expected the name of a branch or tag, or a commit id ({REF})")
    if not re.fullmatch(code.refs, ref):
        raise RequestError(f"{ref!r} does not match data.code.refs ({code.refs}): it is not tested here")


def _place(job: Job, repository: str) -> str:
    """The repository's address; a path is relative to data_root, as elsewhere in model.yaml."""
    remote = "://" in repository or re.match(r"[^/]+:", repository)
    return repository if remote else job.deployment.source(repository)


def _advertised(repository: str, ref: str, protected: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """The commit that a ref names now, and those of the protected branches.

    :raises RequestError: if there is none, or if a branch and a tag have that name.
    """
    names = [f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}"]
    branches = [f"refs/heads/{name}" for name in protected]
    lines = _git(None, "ls-remote", "--", repository, *names, *branches).decode().splitlines()
    there = {name: sha for sha, name in (line.split("\t", 1) for line in lines) if _SHA.fullmatch(sha)}
    if lost := [name for name in branches if name not in there]:
        raise ConfigError(f"data.code.protected: {repository} has no {', '.join(lost)}")
    heads = {name: there[name] for name in branches}
    if _SHA.fullmatch(ref):
        return ref, heads
    if names[0] in there and names[1] in there:
        raise RequestError(f"{ref} is both a branch and a tag of {repository}: give the commit id instead")
    found = next((there[name] for name in (names[0], names[2], names[1]) if name in there), None)
    if found is None:
        raise RequestError(f"{repository} has no branch or tag {ref!r}")
    return found, heads


def _reachable(repository: str, sha: str, heads: dict[str, str]) -> bool:
    """Whether a commit is an ancestor of a protected branch. The history is fetched without any content."""
    with tempfile.TemporaryDirectory(prefix="mlops-git-") as folder:
        _fetch(folder, repository, "--filter=tree:0", *(f"+{name}:{name}" for name in heads))
        known = _git(folder, "rev-list", *heads.values()).decode().split()
    return sha in known


def _packed(job: Job, repository: str, sha: str, code: Code) -> CodeRef:
    name = job.config.name
    path = PurePosixPath(code.path or f"include/models/{name}")
    place = job.deployment
    with tempfile.TemporaryDirectory(prefix="mlops-git-") as scratch:
        bare, tree = Path(scratch, "bare"), Path(scratch, "tree")
        _fetch(str(bare), repository, "--depth=1", sha)
        found = _git(str(bare), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{sha}^{{commit}}").decode()
        if found.strip() != sha:
            raise RequestError(f"{sha} is no commit of {repository}")
        _written(str(bare), sha, path.parent, tree)
        model = modelcode.pack(tree / path, place.environment, place.storage, place.artifact_root, commit=sha)
    if model.config.name != name:
        raise ConfigError(f"{repository} at {sha[:12]}: {path} is the model {model.config.name}, not {name}")
    return model.ref


def _written(bare: str, sha: str, folder: PurePosixPath, target: Path) -> None:
    """Writes the plain files below a folder of a commit. Links and submodules are left out: they could lead anywhere."""
    within = [] if folder == PurePosixPath() else ["--", f"{folder}/"]
    entries = _git(bare, "ls-tree", "-r", "-z", "-l", "--full-tree", sha, *within).decode().split("\0")[:-1]
    plain = [(e.split("\t")[0].split(), e.split("\t", 1)[1]) for e in entries if e.startswith("100")]
    if len(plain) > _FILES or sum(int(head[3]) for head, _ in plain) > _BYTES:
        raise DataError(f"{sha[:12]}: {folder} holds more than {_FILES} files or {_BYTES >> 20} MiB")
    rest = _git(bare, "cat-file", "--batch", input="\n".join(head[2] for head, _ in plain).encode())
    for _, name in plain:
        header, rest = rest.split(b"\n", 1)
        size = int(header.split()[2])
        _put(target, name, rest[:size])
        rest = rest[size + 1 :]


def _put(target: Path, name: str, content: bytes) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"the commit holds a file named {name!r}, which leads out of its folder")
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    (target / path).write_bytes(content)


def _fetch(folder: str, repository: str, *what: str) -> None:
    """A bare repository with what was asked for in it."""
    _git(None, "init", "--quiet", "--bare", "--template=", folder)
    _git(folder, "config", "remote.origin.url", repository)
    _git(folder, "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", what[0], "origin", *what[1:])


def _git(folder: str | None, *arguments: str, input: bytes | None = None) -> bytes:
    """Output of git.

    :raises MlopsError: with what git said, if it fails (see `_error`).
    """
    place = [] if folder is None else ["--git-dir", folder]
    done = git.run((*_CONFIG, *place, *arguments), "the code repository", given=input, timeout=_PATIENCE)
    if done.returncode:
        raise _error(arguments[0], done.stderr.decode(errors="replace"))
    return done.stdout


def _error(command: str, said: str) -> MlopsError:
    """What went wrong, from git's words: only what may pass by itself is tried again."""
    if any(word in said.lower() for word in _UNKNOWN):
        told = said.strip().rstrip(".")[-500:]
        return RequestError(
            f"git {command} failed for the code repository: {told}. Ask for a commit that is there: pushed, and not removed since."
        )
    advice = "Give the worker's git a credential helper or a key for data.code.repository."
    return git.problem(command, said, "the code repository", advice)
