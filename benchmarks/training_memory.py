"""Peak memory of training on rows that are streamed, beside training from pandas, in one run.

    python benchmarks/training_memory.py --rows 4000000 --features 30

Each way trains in a process of its own, on the same parquet files in a DVC remote. The peak is the process's VmHWM; what the
process holds before it reads a row (interpreter and libraries) is told too. Both must give the same trees.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 5
MODEL = """
name: big
owner: benchmark
data:
  source: "{{partition}}/inputs.parquet"
  partition: daily
  key: id
  event_time: at
  columns: [id, at]
  label: {{source: "{{partition}}/labels.parquet", column: y, positive_above: 0, delay: 1h}}
  suites: {{raw: raw.json, features: features.json}}
  dvc: {{repository: repository.git, remote: dvc, path: big}}
features:
  build: features.py:build
  columns: [{columns}]
training: {{rounds: {rounds}, memory: {memory}, resources: {{cpu: 2}}}}
gates: {{thresholds: {{auc: {{min: 0.5}}}}}}
monitoring: {{quality: {{thresholds: {{auc: {{min: 0.5}}}}}}}}
evaluation: {{block: 1h}}
"""


def peak() -> int:
    """Highest resident memory of this process, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status[status.index("VmHWM") :].split()[1]) // 1024


def made(root: Path, rows: int, features: int, partitions: int) -> list[dict[str, Any]]:
    """Writes the partitions into the remote as DVC lays them out, and tells their versions."""
    import pandas as pd

    versions, rng = [], np.random.default_rng(0)
    for number in range(partitions):
        day, count = f"2024-01-{number + 1:02d}", rows // partitions
        values = rng.normal(size=(count, features))
        start = pd.Timestamp(day, tz="UTC")
        frame = pd.DataFrame({
            "id": [f"{day}-{row:08d}" for row in range(count)],
            "at": start + pd.to_timedelta(np.arange(count) * (86_400 / count), unit="s").floor("us"),
            **{f"f{place}": values[:, place] for place in range(features)},
            "label": (values[:, 0] + rng.normal(size=count) > 0).astype(float),
        })
        file = root / "table.parquet"
        frame.to_parquet(file, compression="zstd")
        md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        target = root / "data" / "dvc" / "files" / "md5" / md5[:2] / md5[2:]
        target.parent.mkdir(parents=True, exist_ok=True)
        size = file.stat().st_size
        file.rename(target)
        first, last = str(frame["at"].min()), str(frame["at"].max())
        versions.append({
            "partition": day, "rev": "0", "tag": day, "path": f"big/{day}.parquet", "md5": md5, "size": size,
            "rows": count, "labelled": count, "first": first, "last": last,
        })  # fmt: skip
    return versions


def trained(root: Path, memory: str, features: int) -> dict[str, Any]:
    """Trains by the step itself."""
    from mlops_provider.deployment import Deployment
    from mlops_provider.modelcode import pack
    from mlops_provider.steps.records import DataWork, FeatureVersion, Split
    from mlops_provider.steps.step import Job
    from mlops_provider.steps.training.split import save_split
    from mlops_provider.steps.training.train import TrainArguments, train

    model = root / memory / "big"
    model.mkdir(parents=True)
    columns = ", ".join(f"f{place}" for place in range(features))
    model.joinpath("model.yaml").write_text(MODEL.format(columns=columns, rounds=ROUNDS, memory=memory))
    model.joinpath("features.py").write_text("def build(rows, history, as_of):\n    return rows\n")
    place = Deployment(artifact_root=str(root / memory / "artifacts"), data_root=str(root / "data"), tracking_uri="")
    job = Job(pack(model, place.environment, place.storage, place.artifact_root), place)
    versions = [FeatureVersion.model_validate(value) for value in json.loads((root / "versions.json").read_text())]
    holdout = versions[-1]
    work = DataWork(partition=holdout.partition)
    split = Split(fit=tuple(versions[:-1]), holdout=holdout, holdout_work=work, cutoff=holdout.first)
    import lightgbm  # noqa: F401
    import pandas as pd  # noqa: F401
    import pyarrow.parquet as pq  # noqa: F401

    before, began, cpu = peak(), time.monotonic(), time.process_time()
    found = train.function(job, TrainArguments(split=save_split(job, split)))
    seconds = {"seconds": round(time.monotonic() - began, 1), "cpu": round(time.process_time() - cpu, 1)}
    return {
        "memory": memory,
        "rows": found.rows,
        "before": before,
        "peak": peak(),
        **seconds,
        "trees": found.model_hash,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--one", choices=("whole", "streamed"), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(trained(given.root, given.one, given.features)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = given.rows * (given.partitions + 1) // given.partitions  # the last partition is the holdout, never read
        root.joinpath("versions.json").write_text(json.dumps(made(root, rows, given.features, given.partitions + 1)))
        found = []
        for memory in ("whole", "streamed"):
            command = [sys.executable, __file__, "--one", memory, "--root", folder, "--features", str(given.features)]
            found.append(
                json.loads(
                    subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
                )
            )
            print({key: value for key, value in found[-1].items() if key != "trees"}, flush=True)
    whole, streamed = found
    print(
        f"{whole['peak'] / streamed['peak']:.1f} times less memory, {whole['cpu'] / streamed['cpu']:.2f} times the speed per CPU"
    )
    print("same trees" if whole["trees"] == streamed["trees"] else "OTHER TREES")


if __name__ == "__main__":
    main()
