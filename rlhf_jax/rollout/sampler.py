"""Whoever completes prompts: the protocol that the online loop knows, and the built-in one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rlhf_jax.fields import documented
from rlhf_jax.rollout.engine import GenerationStats, Generator
from rlhf_jax.rollout.sampling import SamplingParams
from rlhf_jax.types import Key, Params, Rollout

MULTIPLE = 64
"""Prompts wider than planned are padded to a multiple of this."""


class Prompts(Protocol):
    """What a sampler reads of prompts (`rlhf_jax.data.PromptBatch`)."""

    @property
    def tokens(self) -> np.ndarray:
        """int32 [P, Tp], right-padded."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """int32 [P], at least 1."""
        ...

    @property
    def prompts(self) -> Sequence[Any]:
        """Texts or conversations."""
        ...

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        """The other columns of the data, by name."""
        ...


@documented
class Sampled(NamedTuple):
    """Completions of P prompts, G of each, group-major."""

    rollout: Rollout
    """NumPy arrays, the same in every process. `completion_mask` may have holes: what an
    environment answered is present (`mask`) and was not chosen."""
    stats: GenerationStats
    """What it cost."""
    conversations: Sequence[Sequence[Mapping[str, Any]]] | None = None
    """Per row what reward functions get as its completion; None: the decoded completion alone."""


@runtime_checkable
class Sampler(Protocol):
    """Completes prompts. The built-in one is `make_sampler`'s; a stub, a server or an environment
    loop (`with_environment`) is another."""

    width: int
    """Longest row that it returns: prompt, completion, and whatever an environment answers."""
    max_scored: int
    """Most tokens of a row that the policy chooses."""

    def __call__(
        self,
        params: Params,
        prompts: Any,
        key: Key,
        *,
        group_size: int,
        sampling: SamplingParams | None = None,
    ) -> Sampled:
        """Completions.

        Args:
          params: of the policy.
          prompts: a `Prompts`.
          key: one key, or one per completion [P * G].
          group_size: completions per prompt, G.
          sampling: None: as in training.
        """
        ...


class GeneratorSampler:
    """The built-in sampler: one generator per group size, made when it is first asked for.

    So training, greedy and held-out completions share compiled programs wherever their group sizes
    are the same.

    Attributes:
      width: longest row.
      max_scored: most tokens of a completion.
    """

    def __init__(
        self,
        make_generator: Callable[[int, tuple[int, ...]], Generator],
        *,
        sampling: SamplingParams,
        prompt_buckets: Sequence[int],
        max_new_tokens: int,
        lay_out: Callable[[Params], Params] = lambda params: params,
    ) -> None:
        """Remembers how generators are made.

        Args:
          make_generator: (group_size, prompt_buckets) -> generator.
          sampling: of training.
          prompt_buckets: widths of prompts.
          max_new_tokens: of a completion.
          lay_out: parameters of the trainer -> those to sample with (dtype, mesh).
        """
        self.width = max(prompt_buckets) + max_new_tokens
        self.max_scored = max_new_tokens
        self._make = make_generator
        self._sampling = sampling
        self._buckets = tuple(sorted(prompt_buckets))
        self._lay_out = lay_out
        self._generators: dict[tuple[int, int], Generator] = {}

    def __call__(
        self,
        params: Params,
        prompts: Prompts,
        key: Key,
        *,
        group_size: int,
        sampling: SamplingParams | None = None,
    ) -> Sampled:
        """See `Sampler`."""
        longest = int(np.max(prompts.lengths))
        generator = self._generator(group_size, longest)
        rollout, stats = generator(
            self._lay_out(params),
            np.asarray(prompts.tokens),
            np.asarray(prompts.lengths),
            key,
            self._sampling if sampling is None else sampling,
        )
        return Sampled(rollout, stats)

    def _generator(self, group_size: int, longest: int) -> Generator:
        # Turns of a conversation make prompts wider than those of the data.
        widest = self._buckets[-1]
        if longest > widest:
            widest = -(-longest // MULTIPLE) * MULTIPLE
        if (group_size, widest) not in self._generators:
            buckets = self._buckets if widest == self._buckets[-1] else (*self._buckets, widest)
            self._generators[group_size, widest] = self._make(group_size, buckets)
        return self._generators[group_size, widest]
