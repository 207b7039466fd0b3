"""`python -m rlhf_jax` is `rlhf-jax`."""

import sys

from rlhf_jax.cli.start import start

sys.exit(start())
