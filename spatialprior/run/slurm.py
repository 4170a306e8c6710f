r"""``python -m spatialprior.run.slurm``: the same run as a SLURM job, through submitit.

The run folder is made first and the job does ``resume=FOLDER``, so that a job which SLURM preempts or requeues
goes on from its last checkpoint. Everything after ``--`` is what ``python -m spatialprior.run`` takes::

    python -m spatialprior.run.slurm --nodes 4 --gpus 8 --partition train --hours 10 -- \
        recipe=gasp_qwen size=paper scale=multinode data.root=/data/dl3dv
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialprior.run.compose import compose_run
from spatialprior.run.errors import RunError, is_expected, report


@dataclass(frozen=True)
class SlurmRun:
    """What every task of the job does; submitit sends it to the nodes.

    Attributes:
        folder: The run folder, on a file system that all nodes share.
    """

    folder: str

    def __call__(self) -> None:
        """One process of the run."""
        from submitit.helpers import TorchDistributedEnvironment

        # Every task sees all devices of its node and takes the one of its local rank, as under torchrun.
        TorchDistributedEnvironment().export(overwrite=True, set_cuda_visible_devices=False)
        os.environ["LOCAL_WORLD_SIZE"] = os.environ.get("SLURM_NTASKS_PER_NODE", "1")
        from spatialprior.run.__main__ import main

        if code := main([f"resume={self.folder}"]):
            raise SystemExit(code)

    def checkpoint(self) -> Any:
        """What submitit submits again when SLURM takes the nodes away."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(arguments: argparse.Namespace, settings: Sequence[str]) -> tuple[Any, Path]:
    """Compose the run, make its folder and submit one task a device; returns the job and the folder.

    Raises:
        RunError: submitit is not installed.
    """
    try:
        import submitit
    except ImportError:
        raise RunError("submitting needs submitit: pip install 'spatialprior[slurm]'") from None
    from spatialprior.run.pipeline import run_folder

    folder = run_folder(compose_run(list(settings))).resolve()
    executor = submitit.AutoExecutor(folder / "slurm", cluster=arguments.cluster)
    on_slurm: dict[str, Any] = {"slurm_srun_args": ["--kill-on-bad-exit=1"]}
    if arguments.partition:
        on_slurm["slurm_partition"] = arguments.partition
    executor.update_parameters(
        name=folder.parent.name,
        nodes=arguments.nodes,
        tasks_per_node=max(1, arguments.gpus or arguments.tasks),
        gpus_per_node=arguments.gpus,
        cpus_per_task=arguments.cpus,
        timeout_min=round(60 * arguments.hours),
        **on_slurm,
    )
    return executor.submit(SlurmRun(str(folder))), folder


def parser() -> argparse.ArgumentParser:
    """The command line in front of ``--``."""
    options = argparse.ArgumentParser(
        prog="python -m spatialprior.run.slurm",
        description="Submit a run as a SLURM job; it goes on from its last checkpoint when requeued.",
        epilog="After --, the settings of the run: recipe=gasp_qwen size=paper scale=multinode ...",
    )
    options.add_argument("--nodes", type=int, default=1)
    options.add_argument("--gpus", type=int, default=8, help="devices, and processes, of a node")
    options.add_argument(
        "--tasks", type=int, default=1, help="processes of a node where --gpus is 0"
    )
    options.add_argument("--cpus", type=int, default=8, help="cores of a process")
    options.add_argument("--hours", type=float, default=24.0, help="time limit")
    options.add_argument("--partition", help="SLURM partition")
    options.add_argument(
        "--cluster", help="slurm; local runs the tasks on this machine, to try it out"
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Submit, print the job and the folder, and return the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    cut = given.index("--") if "--" in given else len(given)
    arguments = parser().parse_args(given[:cut])
    try:
        job, folder = submit(arguments, given[cut + 1 :])
    except Exception as error:
        if is_expected(error):
            return report(error)
        raise
    print(f"job {job.job_id}\nrun folder: {folder}\nlogs: {job.paths.stdout}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
