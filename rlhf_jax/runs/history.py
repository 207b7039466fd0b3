"""The metrics of a run as arrays by name, and as a data frame."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.config.errors import did_you_mean
from rlhf_jax.io import read_metrics


class Curves(Mapping[str, np.ndarray]):
    """Metric name -> its values, one per row of metrics.jsonl: float64, NaN in rows without it.

    ``"step"`` has the steps (int64), so that ``plt.plot(c["step"], c["rewards/mean"])`` is a curve.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], split: str):
        """Takes the rows of a split, ``"train"`` or ``"eval"``."""
        self._split = split
        self._rows = [row for row in rows if row["split"] == split]
        names = dict.fromkeys(name for row in self._rows for name in row if name != "split")
        self._names = tuple({"step": None} | names)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            hint = did_you_mean(name, self._names)
            known = ", ".join(self._names[1:]) or "none, as there is no row of it"
            raise KeyError(f"{name!r} is no metric of {self._split}{hint}; there are {known}")
        if name == "step":
            return np.array([row["step"] for row in self._rows], np.int64)
        return np.array([row.get(name, math.nan) for row in self._rows], np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"Curves({self._split}: {len(self._rows)} rows of {', '.join(self._names)})"


class History:
    """What metrics.jsonl says of a run.

    Attributes:
        rows: a dict per row: `step`, `split` ("train" or "eval"), and the metrics.
        train: training rows as arrays by name.
        eval: evaluations as arrays by name.
    """

    def __init__(self, run_dir: str | os.PathLike[str]):
        """Reads the metrics of a run folder.

        Raises:
            MetricsError: it has none, or they cannot be read.
        """
        self.rows: list[dict[str, Any]] = read_metrics(run_dir)
        self.train = Curves(self.rows, "train")
        self.eval = Curves(self.rows, "eval")

    def frame(self) -> Any:
        """All rows as a pandas DataFrame: a column per metric, `step` and `split` in front.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas  # for whoever wants a table
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "a data frame needs pandas: pip install pandas (history.train and history.eval "
                "have arrays without it)",
                name=error.name,
            ) from None
        return pandas.DataFrame(self.rows)

    def __repr__(self) -> str:
        return f"History({self.train}, {self.eval})"
