"""`rlhf-jax` that takes a lock for stale after seconds: `python -m tests.runs.bucket_child KILL_AT
ARGUMENTS...`; where KILL_AT is not 0, the process is killed while that step's checkpoint is being
written."""

import os
import signal
import sys
import time

from rlhf_jax.cli.main import main
from rlhf_jax.io import Checkpointer, bucket_lock


def die_at(step):
    save = Checkpointer.save

    def dying(self, number, *arguments, **options):
        save(self, number, *arguments, **options)
        if number == step:
            time.sleep(0.1)  # some of its objects are there
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpointer.save = dying


if __name__ == "__main__":
    bucket_lock.BEAT = 1.0
    bucket_lock.STALE = 6.0
    if int(sys.argv[1]):
        die_at(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
