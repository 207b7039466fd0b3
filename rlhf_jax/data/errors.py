"""Errors of the data layer: each is one line that names the offending value and the mend."""

from rlhf_jax.errors import RlhfError


class DataError(RlhfError, ValueError):
    """Data that cannot be used: no such file, unfit columns, a bad row with `on_error="strict"`."""

    exit_code = 3


class BadRow(Exception):
    """One row that cannot be used. Raised while reading a row; the reader adds file and row number.

    Args:
        reason: short category, the key under which skipped rows are counted ("missing column",
          "empty text", ...).
        detail: what is wrong with this row, without quoting its text.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Dropped(Exception):
    """An example that the options leave out; `args[0]` is the reason that it is counted under."""
