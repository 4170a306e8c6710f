"""Records in an official layout, or in a Hugging Face dataset saved to disk, checked before they are used."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spatialprior.eval.published.revision import revisions_of
from spatialprior.eval.published.rule import Record
from spatialprior.eval.published.spec import Spec, SplitSpec
from spatialprior.registry import suggest

_HINT = "if this data is meant, set eval.check_counts=false (the score says so)"


class RecordsError(ValueError):
    """A benchmark's data is missing, or not what its YAML says. One line."""


def read_records(
    spec: Spec, root: Path, split: str, task: Callable[[Record], str], check_counts: bool = True
) -> list[Record]:
    """All records of a split, in the file's order.

    Args:
        spec: The benchmark.
        root: The official layout (the split's ``file`` below it), or what ``Dataset.save_to_disk`` wrote, there
            or in one folder for each configuration.
        split: Of the spec.
        task: Record -> task, to count by.
        check_counts: Compare the numbers of questions with the published ones, and the revision where known.

    Raises:
        RecordsError: Nothing is there, a column is missing, or a count or the revision differs.
    """
    part = spec.data.splits[split]
    records = _records(spec, root, split, part)
    _check_columns(spec, records, root)
    if check_counts:
        _check_revision(spec, root, part)
        _check_counts(spec, part, records, task)
    return records


def told_apart(
    named: list[tuple[str, Record]], before: Callable[[Record], str]
) -> list[tuple[str, Record]]:
    """Ids and records as they are or, where ids repeat, each id with ``before`` of its record in front."""
    if len({name for name, _ in named}) == len(named):
        return named
    return [(before(record) + name, record) for name, record in named]


def read_file(path: Path) -> list[Record]:
    """Records of one ``.jsonl``, ``.json`` (a list), ``.tsv``, ``.csv`` or ``.parquet``, gzipped or not.

    Raises:
        RecordsError: It is missing, of another kind, or broken.
    """
    try:
        return list(_reader(path)(path))
    except FileNotFoundError:
        raise RecordsError(f"{path} is missing") from None
    except RecordsError:
        raise
    # A damaged file: zlib's and pyarrow's errors are none of these three, or a ValueError.
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        raise RecordsError(f"{path} cannot be read: {_one_line(error)}") from error


def _records(spec: Spec, root: Path, split: str, part: SplitSpec) -> list[Record]:
    if not root.is_dir():
        raise RecordsError(
            f"eval.root={root} is no folder; {spec.name} needs {spec.data.hub} in its official layout there"
        )
    if files := sorted(root.glob(part.file)):
        return [record for path in files for record in read_file(path)]
    if (root / "dataset_info.json").exists() or (root / "dataset_dict.json").exists():
        return _saved_dataset(root, split)
    if saved := _saved_folders(root):
        return [record for folder in saved for record in _saved_dataset(folder, split)]
    there = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
    raise RecordsError(
        f"{root} has neither {part.file} nor a dataset saved to disk (it has {there}); download "
        f"{spec.data.hub} there yourself, or choose another eval.split: {', '.join(spec.data.splits)}"
    )


def _saved_folders(root: Path) -> list[Path]:
    """Folders below ``root`` where a dataset was saved, such as one for each configuration."""
    markers = ("dataset_info.json", "dataset_dict.json")
    return sorted(p for p in root.iterdir() if any((p / name).is_file() for name in markers))


def _saved_dataset(root: Path, split: str) -> list[Record]:
    try:
        from datasets import DatasetDict, Image, load_from_disk
    except ImportError:
        raise RecordsError(
            f'{root} is a dataset saved to disk, which needs: pip install "spatialprior[benchmarks]"'
        ) from None
    try:
        found = load_from_disk(str(root))
    except Exception as error:  # of many kinds, from several libraries
        raise RecordsError(
            f"{root} cannot be read as a saved dataset: {_one_line(error)}"
        ) from error
    if isinstance(found, DatasetDict):
        if split not in found:
            raise RecordsError(f"{root} has no split {split!r}; {suggest(split, found)}")
        found = found[split]
    for name, feature in found.features.items():
        if isinstance(feature, Image):
            found = found.cast_column(name, Image(decode=False))
    return list(found)


def _check_columns(spec: Spec, records: list[Record], root: Path) -> None:
    if not records:
        raise RecordsError(f"{root} holds no question of {spec.name}")
    for line, record in enumerate(records):
        lacking = [name for name in spec.data.columns if name not in record]
        if lacking:
            raise RecordsError(
                f"{spec.name}, record {line}: no column {', '.join(lacking)} "
                f"(it has {', '.join(map(str, record))}); expected is {spec.data.hub}"
            )


def _check_revision(spec: Spec, root: Path, part: SplitSpec) -> None:
    wanted = spec.data.revision
    for found in revisions_of(root, part.file) if wanted else ():
        if not found.startswith(str(wanted)):
            raise RecordsError(
                f"{spec.name}: {root} holds revision {found[:12]} of {spec.data.hub}, "
                f"expected is {wanted}; {_HINT}"
            )


def _check_counts(
    spec: Spec, part: SplitSpec, records: list[Record], task: Callable[[Record], str]
) -> None:
    if part.count is not None and len(records) != part.count:
        raise RecordsError(
            f"{spec.name}: {len(records)} questions, published are {part.count}; {_HINT}"
        )
    counts: Counter[str] = Counter()
    for line, record in enumerate(records):
        with told_as_record(spec.name, str(line)):
            counts[task(record)] += 1
    for name, count in part.tasks.items():
        if counts[name] != count:
            raise RecordsError(
                f"{spec.name}: {counts[name]} questions of {name}, published are {count}; {_HINT}"
            )


@contextmanager
def told_as_record(benchmark: str, name: str) -> Iterator[None]:
    """What a record of another form raises, as one line that names it.

    Raises:
        RecordsError: It did.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise RecordsError(
            f"{benchmark}, record {name} is not as published ({type(error).__name__}: {_one_line(error)})"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _reader(path: Path) -> Callable[[Path], Iterator[Record]]:
    kinds = {".jsonl": _jsonl, ".json": _json, ".tsv": _table, ".csv": _table, ".parquet": _parquet}
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in kinds:
        raise RecordsError(f"{path}: records are read from {', '.join(kinds)}, gzipped or not")
    return kinds[suffix]


def _text(path: Path) -> io.TextIOWrapper:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    text: io.TextIOWrapper = opened(path, "rt", encoding="utf-8", newline="")
    return text


def _jsonl(path: Path) -> Iterator[Record]:
    with _text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parsed(line, f"{path}, line {number}")


def _json(path: Path) -> Iterator[Record]:
    with _text(path) as file:
        found = _parsed(file.read(), str(path), list)
    yield from found


def _parsed(text: str, where: str, kind: type = dict) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordsError(f"{where} is not JSON: {error}") from None
    if not isinstance(found, kind):
        raise RecordsError(f"{where} holds a {type(found).__name__}, not a {kind.__name__}")
    return found


def _table(path: Path) -> Iterator[Record]:
    csv.field_size_limit(2**30)  # pictures in base 64
    with _text(path) as file:
        name = path.name.removesuffix(".gz")
        yield from csv.DictReader(file, delimiter="\t" if name.endswith(".tsv") else ",")


def _parquet(path: Path) -> Iterator[Record]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise RecordsError(
            f'{path} is a Parquet file, which needs: pip install "spatialprior[benchmarks]"'
        ) from None
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64):
            yield from batch.to_pylist()
