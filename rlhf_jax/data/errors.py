"""Errors of the data layer: each is one line that names the offending value and the mend."""


class DataError(ValueError):
    """Data that cannot be used: a missing file, columns that do not fit, or a bad row under
    `on_error="strict"`."""


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
    """An example that cannot be trained on as the options are; `args[0]` is the reason it is
    counted under."""
