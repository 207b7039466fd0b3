"""`rlhf-jax` that takes a lock for stale after seconds: `python -m tests.runs.bucket_child KILL_AT
ARGUMENTS...`; where KILL_AT is not 0, the process is killed while that step's checkpoint is being
written."""

import os
import signal
import sys
import time

from rlhf_jax import cloud
from rlhf_jax.cli.main import main
from rlhf_jax.io import Checkpointer, bucket_lock

LEAST = int(os.environ.get("LEAST_OBJECTS", "3"))
"""Of the checkpoint, when the process is killed."""


def die_at(step):
    save = Checkpointer.save

    def dying(self, number, *arguments, **options):
        save(self, number, *arguments, **options)
        if number == step:
            folder = self.directory / str(step)
            while len(cloud.files_below(folder)) < LEAST:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpointer.save = dying


if __name__ == "__main__":
    bucket_lock.BEAT = 1.0
    bucket_lock.STALE = 6.0
    if int(sys.argv[1]):
        die_at(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
