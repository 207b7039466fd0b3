"""The log file of a run."""

import logging
import sys

_log = logging.getLogger(__name__)


class LogFile(logging.FileHandler):
    """A log file that says once that it cannot be written, instead of a traceback a line."""

    _is_told = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `logging` with an exception at hand."""
        if not self._is_told:
            self._is_told = True
            _log.warning(
                "%s cannot be written (%s): the log goes on without it",
                self.baseFilename,
                sys.exc_info()[1],
            )
