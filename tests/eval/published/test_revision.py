"""The revision that the downloader leaves beside the data is found, and checked where one is expected."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from spatialprior.eval.published.reading import RecordsError, read_records
from spatialprior.eval.published.revision import revisions_of
from spatialprior.eval.published.spec import Spec
from spatialprior.eval.published.vsi_bench import VsiBench

WANTED, OTHER = "9c941b46" + "0" * 32, "f" * 40


def left_by_the_downloader(root: Path, file: str, commit: str) -> None:
    path = root / ".cache" / "huggingface" / "download" / f"{file}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{commit}\netag\n1700000000.0\n")


def test_it_is_found_in_the_cache_and_beside_a_local_folder(tmp_path: Path) -> None:
    assert revisions_of(tmp_path, "*.parquet") == []
    cached = tmp_path / "datasets--a--b" / "snapshots" / WANTED / "raw"
    cached.mkdir(parents=True)
    assert revisions_of(cached, "x.jsonl") == [WANTED]
    left_by_the_downloader(tmp_path, "raw/a.jsonl", WANTED)
    left_by_the_downloader(tmp_path, "raw/b.jsonl", OTHER)
    left_by_the_downloader(tmp_path, "raw/c.jsonl", "no commit")
    assert revisions_of(tmp_path, "raw/a.jsonl") == [WANTED]
    assert revisions_of(tmp_path, "raw/*.jsonl") == [WANTED, OTHER]


@pytest.fixture
def spec() -> Spec:
    data = dataclasses.replace(VsiBench.spec.data, columns=("id",), revision="9c941b46")
    split = dataclasses.replace(data.splits["full"], count=1, tasks={})
    return dataclasses.replace(
        VsiBench.spec, data=dataclasses.replace(data, splits={"full": split})
    )


def test_another_one_is_refused_unless_it_is_meant(tmp_path: Path, spec: Spec) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"id": 1}) + "\n")
    left_by_the_downloader(tmp_path, "test.jsonl", WANTED)
    assert len(read_records(spec, tmp_path, "full", str)) == 1
    left_by_the_downloader(tmp_path, "test.jsonl", OTHER)
    with pytest.raises(RecordsError, match=r"revision ffffffffffff of .*, expected is 9c941b46"):
        read_records(spec, tmp_path, "full", str)
    assert len(read_records(spec, tmp_path, "full", str, check_counts=False)) == 1
