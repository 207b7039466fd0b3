"""`rlhf-jax claims`: claimed, measured, interval, verdict."""

import argparse
import pathlib

from rlhf_jax.cli.output import print_table, say
from rlhf_jax.config import ClaimsConfig, ConfigError


def claims(options: argparse.Namespace, config: ClaimsConfig) -> int:
    """Measures, prints, and writes claims.md and claims.json.

    Raises:
      ConfigError: `--output` is a file.
    """
    folder = pathlib.Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output={options.output} is a file; give a folder")
    from rlhf_jax.runs.claims import judge, tables  # heavy

    found = judge(config)
    tables.write(found, folder)
    for judged in found.judged:
        title = f"{judged.claim.name}: {judged.claim.says}; claimed {tables.claimed_text(judged)}"
        if judged.missing:
            say(f"{title}\nnot measured: {judged.missing}; measure it with: {judged.command}\n")
            continue
        # Name and claimed figure stand in the title already.
        columns = [tables.COLUMNS[1], *tables.COLUMNS[3:]]
        rows = [[row[1], *row[3:]] for row in tables.claim_rows(judged)]
        print_table(title, columns, rows)
        if judged.claim.memory is not None:
            say(judged.verdict)
        say("")
    if found.memory:
        headings, sizes = tables.memory_rows(found.memory)
        print_table(tables.MEMORY, headings, sizes, numbers=len(headings) - 1)
    say(tables.how(found))
    say(f"Rule. {tables.RULE}")
    say(
        f"table, rule and sources: {folder / tables.MARKDOWN}; every figure: {folder / tables.JSON}"
    )
    return 0
