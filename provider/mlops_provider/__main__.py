"""`mlops`: the steps and the loops in a terminal or a pod. Every command has `--json`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from mlops_provider import __version__, config, report
from mlops_provider.backtest import command as backtests
from mlops_provider.deployment import Deployment, from_environment
from mlops_provider.exceptions import ConfigError, DataError, MlopsError, RequestError
from mlops_provider.modelcode import pack
from mlops_provider.steps import step
from mlops_provider.steps.step import Job, Outcome, Request
from mlops_provider.storage import Storage, join

_QUIET = {
    "GX_ANALYTICS_ENABLED": "False",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "PYTHONWARNINGS": "ignore",
}


def process() -> NoReturn:
    """The console script: `main`, whose exit status is that of the process, come what may.

    A thread of a library that is still at work while the interpreter is taken down may abort the process, and a step that
    is done would count as failed.
    """
    status = main()
    logging.shutdown()
    with suppress(OSError):  # a closed pipe: whoever read it has seen enough
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """What the command does. Exit status: 0 all is well, 1 a judgement or a step failed, 2 wrong use."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mlops_provider").setLevel(logging.WARNING if options.json else logging.INFO)
    try:
        status = int(options.command(options))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read the output has seen enough; what is still buffered must not raise once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not _expected(error):
            raise
        print(f"mlops {options.name}: {type(error).__name__}: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        return 2 if isinstance(error, ConfigError | RequestError) else 1


def _expected(error: Exception) -> bool:
    """Whether it is an error of ours, of the file system or of S3; any other is a fault of the program, told in full."""
    return isinstance(error, MlopsError | OSError) or type(error).__module__.startswith("botocore.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlops", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[Any], int], about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(command=function)
        added.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
        return added

    run = command("run", _run, "run one step from a JSON request to a JSON result")
    run.add_argument("step", choices=sorted(step.STEPS), metavar="STEP", help=", ".join(step.STEPS))
    run.add_argument("--request", required=True, help="file or URI of the request; - for standard input")
    run.add_argument("--result", help="file or URI to write the result to")
    run.add_argument("--force", action="store_true", help="run again even if nothing has changed")

    lap = command("lap", _lap, "replay a model's partitions through all loops in this process")
    _model_options(lap)
    lap.add_argument("--root", default=".mlops/lap", help="folder for everything the lap writes (default %(default)s)")
    lap.add_argument("--force", action="store_true", help="reuse nothing of an earlier lap in this folder")

    status = command("status", _status, "what the loops decided about a model so far")
    _model_options(status)
    why = command("why", _why, "tell the last decision to retrain, and what came of it, in a paragraph")
    _model_options(why)
    why.add_argument("--partition", help="the last decision on this partition instead")
    stats = command("stats", _stats, "release frequency, lead time, failed and refused releases, time to restore")
    _model_options(stats)
    stats.add_argument("--since", metavar="DATE", help="look at what was decided from then on, such as 2026-01-31")
    versions = command("versions", _versions, "data versions of a model, and which model versions saw them")
    _model_options(versions)
    versions.add_argument("--of", metavar="PARTITION", help="of one partition only")
    garbage = command("gc", _gc, "tell, or delete, content of data versions that nothing needs any more")
    _model_options(garbage)
    _garbage_options(garbage)
    difference = command("diff", _diff, "tell what changed between two versions of a model")
    difference.add_argument("first", metavar="V1", help="a version: number or alias")
    difference.add_argument("second", metavar="V2", help="the other one")
    difference.add_argument("--model", required=True, help="name of the model")
    card = command("scorecard", _scorecard, "tell which of the 28 tests of the ML Test Score a model passes by itself")
    _model_options(card)
    backtests.add(command, _model_options, _job)
    check = command("validate", _validate, "check every model.yaml; exits 1 if one is bad")
    _place_options(check)
    command("schema", _schema, "print the JSON schema of model.yaml, for editors")
    _suite_commands(commands)
    return parser


def _suite_commands(commands: Any) -> None:
    suite = commands.add_parser("suite", help="Great Expectations suites of a model")
    about = "propose a first suite from data, for a person to edit"
    init = suite.add_subparsers(required=True, metavar="COMMAND").add_parser("init", help=about, description=about)
    init.set_defaults(command=_suite_init)
    _model_options(init)
    init.add_argument("--partition", help="the partition to look at; the newest if it is not given")
    init.add_argument("--which", choices=("raw", "features"), default="raw", help="which table (default %(default)s)")
    init.add_argument("--write", action="store_true", help="write it where model.yaml names it; never over a file")
    init.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def _place_options(parser: argparse.ArgumentParser) -> None:
    include = os.environ.get("AIRFLOW__MLOPS__INCLUDE_DIR", "include")
    environment = os.environ.get("AIRFLOW__MLOPS__ENVIRONMENT", "local")
    parser.add_argument("--include", default=include, help="folder with models/ in it (default %(default)s)")
    parser.add_argument("--environment", default=environment, help="whose overlays apply (default %(default)s)")


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="name of the model")
    _place_options(parser)


def _garbage_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep", type=int, default=2, help="newest versions of a partition to keep (default %(default)s)"
    )
    hours = "hours a version must have been superseded (default %(default)g)"
    parser.add_argument("--grace", type=float, default=168.0, help=hours)
    purged = "model versions that were deleted in MLflow together with their runs"
    parser.add_argument("--purged", type=int, nargs="+", default=[], metavar="VERSION", help=purged)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--delete", action="store_true", help="delete")
    what.add_argument("--dry-run", action="store_true", help="delete nothing; this is the default")


def _run(options: Any) -> int:
    try:
        given = json.loads(_asked(options.request))
        if not isinstance(given, dict):
            raise ValueError(f"expected an object with code, deployment and arguments, found {type(given).__name__}")
        request = Request.model_validate({"step": options.step, **given})
    except ValueError as error:
        raise RequestError(f"{options.request}: {error}") from error
    if request.step != options.step:
        raise RequestError(f"{options.request} asks for the step {request.step!r}, not {options.step!r}")
    outcome = step.run(request.model_copy(update={"force": request.force or options.force}))
    content = outcome.model_dump(mode="json")
    if options.result:
        request.deployment.storage.write_json(options.result, content)
    print(json.dumps(content, indent=1) if options.json else _told(options.step, outcome))
    return 0


def _asked(place: str) -> str | bytes:
    try:
        return sys.stdin.read() if place == "-" else Storage().read(place)
    except (DataError, IsADirectoryError) as error:
        raise RequestError(f"--request: {error}") from error


def _lap(options: Any) -> int:
    config.check_name(options.model)
    config.check_environment(options.environment)
    root = Path(options.root).resolve()
    if odd := sorted({letter for letter in "%?" if letter in str(root)}):
        raise RequestError(f"{root}: MLflow cannot keep its files under {' '.join(odd)}; give --root another folder")
    with _locked(root):
        return _replayed(root, options)


def _replayed(root: Path, options: Any) -> int:
    from mlops_provider.loops import Loops, replay, require_replay

    began = time.monotonic()
    deployment = _lap_of(root, options)
    # What an earlier lap left is worth more than a lap that cannot begin.
    require_replay(_job(options, deployment))
    if options.force and (others := [name for name in _lapped(root) if name != options.model]):
        raise RequestError(
            f"--force would delete what {', '.join(others)} did in {root}, too: give --root a folder for {options.model} alone"
        )
    _forget(root, options)
    job = _job(options, deployment)
    quiet = options.json

    def told(label: str, outcome: Outcome) -> None:
        if not quiet:
            print(_told(f"{label}  {outcome.step}", outcome), flush=True)

    for _ in replay(job, Loops(job, told), deployment.data_root):
        pass
    found = report.story(job)
    faults = report.broken(found)
    print(json.dumps(report.as_json(found, faults), indent=1) if quiet else f"\n{report.render(found)}")
    if not quiet:
        print(f"\n{time.monotonic() - began:.0f} s; ledger, predictions and reports: {deployment.artifact_root}")
        print("".join(f"BROKEN: {fault}\n" for fault in faults), end="")
    return 1 if faults else 0


def _lapped(root: Path) -> list[str]:
    """The models that went through laps in this folder."""
    return sorted(path.name for path in root.glob("artifacts/ledger/*") if path.is_dir())


def _forget(root: Path, options: Any) -> None:
    """What an earlier lap decided is forgotten; what it computed may be reused."""
    gone = ("artifacts", "data/repository.git", "data/dvc", "mlflow.db") if options.force else ()
    decided = [f"artifacts/{room}/{options.model}" for room in ("ledger", "monitoring")]
    manifests = root.glob(f"artifacts/predictions/{options.model}/*/_manifest.json")
    for path in (*(root / name for name in (*gone, *decided)), *manifests):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    _bare_repository(root / "data" / "repository.git")


def _lap_of(root: Path, options: Any) -> Deployment:
    """The lap's own deployment."""
    return Deployment(
        artifact_root=str(root / "artifacts"),
        data_root=str(root / "data"),
        environment=options.environment,
        tracking_uri=f"sqlite:///{root / 'mlflow.db'}",
        actor="mlops lap",
    )


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keeps a second lap out of this folder."""
    import fcntl

    marker = root / ".mlops-lap"
    if root.exists() and any(root.iterdir()) and not marker.exists():
        raise RequestError(f"{root} was not made by mlops lap; give --root another folder")
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(marker, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise RequestError(f"another lap is at work in {marker.parent}; give --root another folder") from error
    try:
        yield
    finally:
        os.close(handle)


def _bare_repository(path: Path) -> None:
    import subprocess

    if not path.exists():
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(path)], check=True)


def _job(options: Any, deployment: Deployment) -> Job:
    directory = Path(options.include, "models", config.check_name(options.model))
    return Job(pack(directory, options.environment, deployment.storage, deployment.artifact_root), deployment)


def _status(options: Any) -> int:
    job = _job(options, from_environment())
    found = report.story(job)
    faults = report.broken(found, promotion=False)
    print(json.dumps(report.as_json(found, faults), indent=1) if options.json else report.render(found))
    return 1 if faults else 0


def _why(options: Any) -> int:
    from mlops_provider import why

    job = _job(options, from_environment())
    return _shown(options, why.why(job.config.name, job.ledger.records(), options.partition), why.render)


def _stats(options: Any) -> int:
    from mlops_provider import stats

    job, since = _job(options, from_environment()), stats.moment(options.since)
    return _shown(options, stats.stats(job.config.name, job.ledger.records(), since=since), stats.render)


def _shown(options: Any, found: Any, render: Callable[[Any], str]) -> int:
    print(found.model_dump_json(indent=1) if options.json else render(found))
    return 0


def _versions(options: Any) -> int:
    from mlops_provider.steps.data import versions

    job = _job(options, from_environment())
    every = versions.known(job, job.ledger.records())
    found = tuple(one for one in every if options.of in (None, one.data.partition))
    print(json.dumps(versions.as_json(found), indent=1) if options.json else versions.render(found))
    return 0


def _gc(options: Any) -> int:
    from mlops_provider.steps.data.garbage import GarbageArguments, collect_garbage

    job = _job(options, from_environment())
    try:
        arguments = GarbageArguments(
            keep=options.keep, grace=options.grace, purged=tuple(options.purged), delete=options.delete
        )
    except ValueError as error:
        raise RequestError(f"--keep and --grace must be at least 1: {error}") from error
    done = collect_garbage(job, arguments)
    if options.json:
        print(done.model_dump_json(indent=1))
        return 0
    for one in done.garbage:
        print(f"{one.tag}  {one.size:,} bytes")
    said = "deleted" if done.deleted else "would be deleted with --delete"
    print(f"{len(done.garbage)} versions, {done.size:,} bytes {said}; {done.kept} versions stay")
    return 0


def _scorecard(options: Any) -> int:
    from mlops_provider import scorecard

    return _shown(options, scorecard.scorecard(_job(options, from_environment())), scorecard.render)


def _diff(options: Any) -> int:
    from mlops_provider import diff

    found = diff.difference(options.model, options.first, options.second, from_environment())
    return _shown(options, found, diff.render)


def _validate(options: Any) -> int:
    models, errors = config.load_all(options.include, options.environment)
    names = [model.name for _, model in models]
    if not models and not errors:
        raise ConfigError(f"{join(str(options.include), 'models')} holds no model")
    if options.json:
        print(json.dumps({"valid": names, "errors": [str(error) for error in errors]}, indent=1))
    else:
        print("".join(f"ok     {name}\n" for name in names) + "".join(f"ERROR  {error}\n" for error in errors), end="")
    return 1 if errors else 0


def _schema(options: Any) -> int:
    print(json.dumps(config.schema(), indent=None if options.json else 1))
    return 0


def _suite_init(options: Any) -> int:
    from mlops_provider.steps.data.propose import propose, write

    job = _job(options, from_environment())
    partition, suite = propose(job, options.which, options.partition)
    text = json.dumps(suite, indent=2) + "\n"
    path = write(job, options.which, Path(options.include, "models", options.model), text) if options.write else None
    if options.json:
        print(json.dumps({"partition": partition, "suite": suite, "written": str(path) if path else None}, indent=1))
    else:
        print(f"{path}: {len(suite['expectations'])} expectations" if path else text, end="\n" if path else "")
    return 0


def _told(label: str, outcome: Outcome) -> str:
    return f"{label:<28} {'reused' if outcome.reused else f'{outcome.seconds:6.2f} s'}"


if __name__ == "__main__":
    process()
