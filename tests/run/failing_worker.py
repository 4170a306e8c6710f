"""A run whose second process dies in its third step: ``failing_worker.py raise|kill ARGUMENTS...``."""

import os
import signal
import sys

from spatialprior.core.terms import NonFiniteLossError
from spatialprior.run.__main__ import main
from spatialprior.train import trainer

how, *arguments = sys.argv[1:]
original = trainer.Trainer._step
steps = 0


def step(self, *rest):
    global steps
    steps += 1
    if steps == 3 and os.environ["RANK"] == "1":
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise NonFiniteLossError("loss term gasp/corr is nan on clips room-7")
    return original(self, *rest)


trainer.Trainer._step = step
sys.exit(main(arguments))
