"""What `train` returns."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_jax.cloud import Place
from rlhf_jax.data import FastTokenizer
from rlhf_jax.fields import documented
from rlhf_jax.runs.complete import Completions, complete
from rlhf_jax.runs.history import History
from rlhf_jax.runs.load import LoadedModel, load
from rlhf_jax.types import Model, Params


@documented
@dataclass(frozen=True)
class RunResult:
    """What a run left behind. What it learnt is read from its folder when it is first asked for."""

    run_dir: Place
    """The folder that the configuration names; of a bucket a path with the same methods
    (`rlhf_jax.cloud`)."""
    steps: int
    """Training steps made, those of earlier sessions included."""
    metrics: dict[str, float]
    """The last evaluation, and the last training metrics under the prefix "train/"."""
    interrupted: bool
    """A signal ended the run; starting it again goes on from here."""
    asked_to_stop: bool
    """A signal came while it trained, if only when nothing was left to do: the run may be complete,
    and whoever has more to do after it should not begin."""
    export_dir: Place | None
    """Hugging Face folder with the final weights; None when interrupted, and for a model of one's
    own."""

    @functools.cached_property
    def history(self) -> History:
        """Every row of metrics, as arrays by name (`history.train`, `history.eval`) and as a data
        frame (`history.frame()`)."""
        return History(self.run_dir)

    @functools.cached_property
    def loaded(self) -> LoadedModel:
        """The trained model: ``model, params, tokenizer = result.loaded``. See `load`."""
        return load(self.run_dir)

    @property
    def model(self) -> Model:
        """Functions of the trained policy."""
        return self.loaded.model

    @property
    def params(self) -> Params:
        """Parameters of the trained policy."""
        return self.loaded.params

    @property
    def tokenizer(self) -> FastTokenizer:
        """The tokenizer of the run."""
        return self.loaded.tokenizer

    def complete(self, prompts: str | Sequence[Any], **options: Any) -> Completions:
        """Completions by the trained policy; arguments as for `rlhf_jax.complete`."""
        return complete(self.loaded, prompts, **options)
