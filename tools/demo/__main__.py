"""`make demo` and `make up`: real Airflow, MLflow and a data repository on loopback, and a year of real flights."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from mlops_provider import report
from mlops_provider.exceptions import MlopsError
from tools.demo.environment import REPOSITORY
from tools.demo.replay import DemoError, Replay
from tools.demo.rest import AirflowApi, ApiError
from tools.demo.services import Services
from tools.demo.state import ServiceError

MODEL = "flight_delays"


def main() -> int:
    """Exit status: 0 if everything held, 1 if something failed or did not hold, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("command", choices=("run", "up"))
    parser.add_argument("--home", type=Path, default=REPOSITORY / ".demo", help="folder for everything that it writes")
    parser.add_argument("--months", type=int, help="how many months to replay (default: all there are)")
    options = parser.parse_args()
    try:
        return _run(options.home, options.months) if options.command == "run" else _up(options.home)
    except KeyboardInterrupt:
        print("\nStopped; no process is left. The next `make demo` goes on from here.")
        return 130
    except (ApiError, DemoError, MlopsError, ServiceError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1


def _run(home: Path, months: int | None) -> int:
    began, since = time.monotonic(), datetime.now(UTC)
    print("Starting Airflow, MLflow and the data repository on 127.0.0.1", flush=True)
    with Services(home) as services, services.api() as api:
        print(f"Ready after {time.monotonic() - began:.0f} s. {_where(services)}\n", flush=True)
        replay = Replay(services, api, MODEL)
        partitions = replay.job.model.function("feed.py:partitions")()[:months]
        replay.run(partitions)
        told = report.story(replay.job)
        print(f"\n{report.render(told)}\n")
        print(_times(api, time.monotonic() - began, since))
        faults = [*report.broken(told), *_promises(told)]
        print("".join(f"BROKEN: {fault}\n" for fault in faults), end="")
        _close(services, told)
        return 1 if faults else 0


def _promises(told: report.Story) -> list[str]:
    """What the demo shows beside what must hold of every story: a refusal, and a drill that was refused as harmful."""
    faults = []
    if not any(line.outcome == "no_proven_gain" for line in told.lines):
        faults.append("no candidate was refused for want of a proven gain")
    if not told.drills or any(outcome != "harmful" for outcome in told.drills.values()):
        faults.append(f"the drill was not refused as harmful: {told.drills or 'there was none'}")
    return faults


def _times(api: AirflowApi, seconds: float, since: datetime) -> str:
    """How many tasks ran since the start, and where the time went."""
    ran = api.task_instances("~", "~", start_date_gte=since.isoformat(), state=["success"])
    tasks = [task for task in ran if task["duration"] is not None and task["dag_id"].startswith(f"{MODEL}.")]
    spent: Counter[str] = Counter()
    for task in tasks:
        spent[f"{task['dag_id'].split('.')[-1]}.{task['task_id'].split('.')[-1]}"] += task["duration"]
    top = ", ".join(f"{name} {total:.0f} s" for name, total in spent.most_common(8))
    return f"{seconds:.0f} s in all; {len(tasks)} tasks in {sum(spent.values()):.0f} s of task time, most in {top}"


def _close(services: Services, told: report.Story) -> None:
    reports = services.artifacts / "reports" / told.model
    shown = sorted(reports.glob("drift-*.html"))
    print(f"Drift reports: {shown[-1] if shown else reports} and its neighbours")
    print(f"Ledger:        {services.artifacts / 'ledger' / told.model}")
    print("UI:            `make up` starts Airflow and MLflow again with everything in it")


def _up(home: Path) -> int:
    print("Starting Airflow, MLflow and the data repository on 127.0.0.1", flush=True)
    with Services(home) as services:
        print(f"{_where(services)}\nCtrl-C stops everything.", flush=True)
        while True:
            services.check()
            time.sleep(1)


def _where(services: Services) -> str:
    login = f"user {services.username}, password {services.password}"
    return f"Airflow: {services.airflow_url} ({login}); MLflow: {services.mlflow_url}"


if __name__ == "__main__":
    sys.exit(main())
