"""Tasks of the installed lmms-eval on local data: copied at run time, pointed to it, known faults mended.

``python -m spatialprior.eval.lmms.tasks --tasks vsibench,blink --data FOLDER --out TASKS`` writes such copies
for lmms-eval's own command line (``--include_path TASKS``), where they are called ``local_vsibench`` and so on:
of two tasks with one name, lmms-eval takes its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.installed import tasks_folder
from spatialprior.eval.lmms.mended import mend
from spatialprior.eval.lmms.task_files import find_task, read_yaml, rewrite


@dataclass(frozen=True)
class LocalTasks:
    """Copied tasks.

    Attributes:
        folder: Where they lie: ``TaskManager(include_path=..., include_defaults=False)``.
        names: What was asked for, as lmms-eval calls it, in the order asked.
        mended: Faults that were mended, a sentence each.
        environment: What must be set while they are loaded and run.
    """

    folder: Path
    names: tuple[str, ...]
    mended: tuple[str, ...]
    environment: Mapping[str, str]


def local_tasks(
    names: Sequence[str],
    data: Path,
    out: Path,
    *,
    prefix: str = "",
    source: Path | None = None,
) -> LocalTasks:
    """Copy the folders of tasks, so that they read ``data`` and nothing else.

    ``data`` holds a snapshot of each data set under the last part of its hub name (``BLINK``, ``VSI-Bench``,
    ``Video-MME``), and media where the task looks for them below ``HF_HOME``
    (``vsibench/<dataset>/<scene>.mp4``).

    Args:
        names: Tasks, groups, or names of tasks' files.
        data: The folder.
        out: Where to write; must be ours alone.
        prefix: Put before the tasks' names.
        source: lmms-eval's ``tasks`` folder; by default the installed one.

    Raises:
        LmmsError: A task, its data or its media are not there, or lmms-eval is not, or broken.
    """
    source, data = source or tasks_folder(), data.absolute()
    chosen = [find_task(source, name) for name in names]
    mended: list[str] = []
    for folder in dict.fromkeys(folder for folder, _ in chosen):
        copy = out / folder.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for path in copy.rglob("*.yaml"):
            read_yaml(path)  # says what is missing before anything is changed
        rewrite(copy, partial(_local, data=data, out=out, prefix=prefix))
        mended += mend(copy)
    for folder, name in chosen:
        _check(out / folder.name, prefix + name)
    return LocalTasks(
        folder=out,
        names=tuple(prefix + name for _, name in chosen),
        mended=tuple(mended),
        environment=environment(data, out),
    )


def environment(data: Path, out: Path) -> dict[str, str]:
    """Variables of a run on local data: tasks look for media below ``HF_HOME``; nothing is downloaded."""
    return {
        "HF_HOME": str(data),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "LMMS_EVAL_DATASETS_CACHE": str(out / "datasets"),
    }


@contextmanager
def set_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables inside, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _local(values: dict[str, Any], *, data: Path, out: Path, prefix: str) -> None:
    """Change one file of a task: local data, no token, and its names."""
    if "dataset_path" in values:
        values["dataset_path"] = str(data / str(values["dataset_path"]).rpartition("/")[2])
    options = values.get("dataset_kwargs")
    if isinstance(options, dict):
        for name in ("token", "From_YouTube", "force_download", "force_unzip", "create_link"):
            options.pop(name, None)
        if "cache_dir" in options and not options.get("video"):
            # Else pictures are unpacked into a folder of that name wherever the program was started.
            options["cache_dir"] = str(out / str(options["cache_dir"]))
    for name in ("task", "group", "tag"):
        if name in values and prefix:
            values[name] = _prefixed(values[name], prefix)


def _prefixed(value: Any, prefix: str) -> Any:
    if isinstance(value, list):
        return [_prefixed(each, prefix) for each in value]
    if isinstance(value, dict):
        return {k: _prefixed(v, prefix) if k in ("task", "group") else v for k, v in value.items()}
    return f"{prefix}{value}"


def _check(folder: Path, name: str) -> None:
    """Refuse a task whose data or media are missing, before lmms-eval looks for them on the hub."""
    members = {name}
    every = [read_yaml(path) for path in sorted(folder.rglob("*.yaml"))]
    for values in every:  # a group names its tasks or tags
        if values.get("group") == name and isinstance(values.get("task"), list):
            members |= {
                each if isinstance(each, str) else each.get("task") for each in values["task"]
            }
    for values in every:
        if not members & {
            values.get("task") if isinstance(values.get("task"), str) else None,
            values.get("tag"),
        }:
            continue
        path = Path(values.get("dataset_path", folder))
        if not path.exists():
            raise LmmsError(
                f"{path} is missing: the questions of {name} go there (a snapshot of the data set)"
            )
        options = values.get("dataset_kwargs") or {}
        media = path.parent / str(options.get("cache_dir"))
        if options.get("video") and not media.is_dir():
            raise LmmsError(f"{media} is missing: the videos of {name} go there")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done, 2 asked for what does not exist."""
    parser = argparse.ArgumentParser(
        prog="python -m spatialprior.eval.lmms.tasks", description=__doc__
    )
    parser.add_argument("--tasks", required=True, help="names, separated by commas")
    parser.add_argument("--data", required=True, type=Path, help="folder of snapshots and media")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder to write, for --include_path"
    )
    parser.add_argument(
        "--prefix", default="local_", help="before the tasks' names (default: local_)"
    )
    asked = parser.parse_args(argv)
    try:
        done = local_tasks(
            asked.tasks.split(","), asked.data, asked.out.absolute(), prefix=asked.prefix
        )
    except LmmsError as error:
        print(f"spatialprior.eval.lmms.tasks: {error}", file=sys.stderr)
        return 2
    for reason in done.mended:
        print(f"# mended: {reason}")
    for name, value in done.environment.items():
        print(f"export {name}={value}")
    print(
        f"# then: python -m lmms_eval ... --include_path {done.folder} --tasks {','.join(done.names)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
