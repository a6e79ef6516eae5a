"""A split by reference: what a candidate is fitted and judged on, stored under its hash."""

from __future__ import annotations

from mlops_provider.steps.records import Split, SplitRef
from mlops_provider.steps.step import Job
from mlops_provider.storage import digest


def save_split(job: Job, split: Split) -> SplitRef:
    """Stores a split under its hash."""
    value = split.model_dump(mode="json")
    file = job.storage.write_json(job.under("splits", f"{digest(value)[:32]}.json"), value)
    names = [version.partition for version in split.fit]
    return SplitRef(
        file=file,
        holdout=split.holdout.partition,
        first=names[0],
        last=names[-1],
        partitions=len(names),
        until=split.holdout.last,
    )


def load_split(job: Job, ref: SplitRef) -> Split:
    """The split of a reference, verified."""
    return Split.model_validate_json(job.storage.fetch(ref.file))
