"""Text about configuration keys, made from the dataclasses: `train --help`, `claims --help`,
`algorithms NAME`."""

import textwrap
from collections.abc import Sequence

from rlhf_jax.algorithms import ALGORITHMS, algorithm_config, default_learning_rate
from rlhf_jax.config import ClaimsConfig, Config, FieldDoc, describe_section
from rlhf_jax.training import DEFAULT_LEARNING_RATE

WIDTH = 118


def keys_of(command: str) -> dict[str, str]:
    """Every key of the file that a command reads, described, under the name of the command."""
    if command == "claims":
        return {command: f"keys of the file (type, default):\n{describe_rows(claims_rows())}\n"}
    return {command: describe_keys()}


def claims_rows() -> list[FieldDoc]:
    """The keys of a file of claims."""
    return describe_section(ClaimsConfig)


def describe_keys() -> str:
    """Every key of a configuration with type, default and meaning, by section."""
    sections = rows_by_section()
    parts = ["configuration keys (type, default):\n", describe_rows(sections.pop(""))]
    parts.append(
        f"  algorithm.name  [one of: {', '.join(ALGORITHMS)}] (required)\n      Chooses the keys "
        "of the section algorithm.\n"
    )
    parts += [
        f"\nalgorithm, when algorithm.name={name}:\n{describe_algorithm(name)}"
        for name in ALGORITHMS
    ]
    parts += [f"\n{section}:\n{describe_rows(rows)}" for section, rows in sections.items()]
    return "".join(parts) + "\n"


def rows_by_section() -> dict[str, list[FieldDoc]]:
    """Section -> its keys, those of the top level under ""; without `algorithm`, whose keys depend
    on its name (`algorithm_rows`)."""
    sections: dict[str, list[FieldDoc]] = {"": []}
    for row in describe_section(Config):
        if row.key != "algorithm":
            sections.setdefault(row.key.rpartition(".")[0], []).append(row)
    return sections


def algorithm_rows(name: str) -> list[FieldDoc]:
    """The keys of one algorithm's section, and its learning rate."""
    cls = algorithm_config(name)
    rate = default_learning_rate(cls)
    default = f"{DEFAULT_LEARNING_RATE if rate is None else rate}"
    further = FieldDoc(
        "optimizer.learning_rate",
        "a number",
        default,
        "With this algorithm, when the run gives none.",
    )
    return [*describe_section(cls, "algorithm."), further]


def describe_algorithm(name: str) -> str:
    """`algorithm_rows` as text."""
    return describe_rows(algorithm_rows(name))


def describe_rows(rows: Sequence[FieldDoc]) -> str:
    """Two or more lines per key: `key  [type] default`, then its meaning."""
    lines = []
    for row in rows:
        default = row.default if row.default.startswith("(") else f"= {row.default}"
        lines.append(f"  {row.key}  [{row.type}] {default}\n")
        if row.doc:
            lines.append(textwrap.indent(textwrap.fill(row.doc, WIDTH - 6), "      ") + "\n")
    return "".join(lines)
