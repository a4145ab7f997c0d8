"""What a search judged, in an MLflow tracking store as well: a run for each file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from edgeprune.errors import MissingExtra, Unsupported
from edgeprune.points import Point

__all__ = ["Tracking", "tracking_of"]

_SEARCH, _STAGE, _CANDIDATE = "edgeprune.search", "edgeprune.stage", "edgeprune.candidate"


class Tracking(Protocol):
    """Where points are logged."""

    def log(self, point: Point, values: Mapping[str, object]) -> None:
        """Log a point, and the values that led to it; one that was logged before is not logged again."""


class Nowhere:
    """No tracking."""

    def log(self, point: Point, values: Mapping[str, object]) -> None:
        """Nothing is logged."""


class MlflowRuns:
    """Runs of an experiment that is called like the model; `search` tells those of a search from others."""

    def __init__(self, client: Any, experiment: str, search: str) -> None:
        self._client, self._experiment, self._search = client, experiment, search
        runs = client.search_runs([experiment], f"tags.`{_SEARCH}` = '{search}'", max_results=50_000)
        self._logged = {(run.data.tags.get(_STAGE), run.data.tags.get(_CANDIDATE)) for run in runs}

    def log(self, point: Point, values: Mapping[str, object]) -> None:
        """See Tracking."""
        if (point.stage, point.candidate) in self._logged:
            return
        self._logged.add((point.stage, point.candidate))
        tags = {_SEARCH: self._search, _STAGE: point.stage, _CANDIDATE: point.candidate}
        run = self._client.create_run(self._experiment, run_name=point.stage, tags=tags)
        for name, value in {**values, "precision": point.precision}.items():
            self._client.log_param(run.info.run_id, name, value)
        numbers = (
            "metric",
            "lost",
            "download_bytes",
            "download_ratio",
            "latency",
            "parameters",
            "macs",
            "epochs",
            "cpu_s",
        )
        for name in numbers:
            value = getattr(point, name)
            if value is not None:
                self._client.log_metric(run.info.run_id, name, float(value))
        self._client.set_terminated(run.info.run_id)


def tracking_of(uri: str | None, experiment: str, search: str) -> Tracking:
    """Where the points of a search are logged. Raises MissingExtra, and Unsupported for a store that cannot be
    reached."""
    if uri is None:
        return Nowhere()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if "://" not in uri or uri.startswith("file:"):  # a folder, which MLflow 3 takes only when told so
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise MissingExtra("mlflow-skinny", "mlflow", "--mlflow") from None
    try:
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(experiment)
        place = known.experiment_id if known else client.create_experiment(experiment)
        return MlflowRuns(client, place, search)
    except (MlflowException, OSError) as cause:
        raise Unsupported(f"--mlflow {uri}: {str(cause).splitlines()[0][:200]}") from cause
