from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spatialprior.eval.cards.card import CardError, find_cards, read_card
from spatialprior.eval.cards.verify import verify_card
from spatialprior.run.__main__ import main

Make = Callable[..., Path]


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rewritten(path: Path, item: str, **values: Any) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line.get("id") == item:
            line.update(values)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def test_golden_card(vsi: Make, exported: Path) -> None:
    folder = vsi(commit="0123-dirty", devices=2, config={"price_per_hour": 3.0, "limit": 8})
    card, sealed = read_card(folder / "card.json")
    assert sealed and card.schema_version == "1.0"
    assert card.benchmark["name"] == "vsi_bench" and "root" not in card.benchmark["settings"]
    assert card.protocol["name"] == "official" and card.protocol["rule"] == "official"
    assert card.protocol["deviations"] == ["only the first 8 questions"]
    assert card.data["hub"] == "nyu-visionx/VSI-Bench" and card.data["split"] == "full"
    wanted = {"decoding": "greedy", "max_new_tokens": 16, "engine": "packed", "batch": 16}
    assert card.decoding == wanted
    manifest = (exported / "spatialprior_manifest.json").read_bytes()
    assert card.model["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert (folder / card.model["export"]).resolve() == exported.resolve()
    assert card.model["recipe_hash"] == "abc" and card.model["seed"] == 3
    assert card.software["commit"] == "0123" and card.software["dirty"] is True
    assert {"torch", "transformers", "spatialprior"} <= card.software["versions"].keys()
    assert card.hardware == {"device": "CPU", "devices": 2}
    assert card.cost["items_per_second"] == 4.0
    assert card.cost["price"] == pytest.approx(3.0 * 2 * 2.0 / 3600)
    scores = card.scores
    # Counting: 1 of 1; 3 of 2 is half too many (worth 0.1); no number; 4 of 4. Ways: A, B, a, no letter.
    assert scores["tasks"]["object_counting"]["score"] == pytest.approx((1 + 0.1 + 0 + 1) / 4)
    assert scores["tasks"]["route_planning"]["score"] == 0.5
    assert scores["aggregates"]["micro"]["value"] == pytest.approx(4.1 / 8)
    assert scores["aggregates"]["macro"]["value"] == pytest.approx(4.1 / 8)
    low, high = scores["aggregates"]["micro"]["ci95"]
    assert low < 4.1 / 8 < high
    assert scores["headline"]["name"] == "overall"
    assert scores["headline"]["value"] == pytest.approx((0.525 + 0.5) / 2)
    assert scores["n"] == 8 and scores["chance"] == 0.25 and scores["errors"] == 0
    assert scores["parse_failures"] == 2 and scores["parse_failure_rate"] == 0.25
    assert scores["tasks"]["route_planning"]["blind"] == 0.25


@pytest.mark.parametrize("kind", ["vsi", "sides"])
def test_untouched_card_verifies(
    kind: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = request.getfixturevalue(kind)()
    assert main(["mode=verify", f"card={folder / 'card.json'}"]) == 0
    out = capsys.readouterr().out
    assert "verified" in out and "DIFFERS" not in out and "weights of the export" in out
    assert "not checked  text-only lookup" in out
    assert main(["mode=verify", f"card={folder.parent}"]) == 0  # all below a folder


def test_export_that_is_gone_is_said(vsi: Make, exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run" / "export"
    shutil.copytree(exported, copy)
    card = vsi("run/replies/after", export=copy) / "card.json"
    assert not any("is gone" in line for line in verify_card(card).unchecked)
    shutil.rmtree(copy)
    verdict = verify_card(card)
    assert verdict.ok and any("is gone" in line for line in verdict.unchecked)


def test_changed_weights(vsi: Make, exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run" / "export"
    shutil.copytree(exported, copy)
    card = vsi("run/replies/after", export=copy) / "card.json"
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (line,) = verify_card(card).differs
    assert line.startswith("weights:") and "tensor" in line and "is changed" in line


def test_changed_reply(vsi: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = vsi()
    rewritten(folder / "replies.jsonl", "3", reply="A")
    assert main(["mode=verify", f"card={folder}"]) == 1
    out = capsys.readouterr().out
    assert "replies.jsonl, 8 replies: the file was changed" in out
    assert "1 are not what the rule says" in out
    assert any(line.split()[:2] == ["3", "0,"] for line in out.splitlines())
    assert "scores.tasks.route_planning.score: 0.5 on the card, 0.75 recomputed" in out


def test_changed_score_in_the_replies(sides: Make) -> None:
    folder = sides()
    rewritten(folder / "replies.jsonl", "0-two", score=0.0, correct=False)
    verdict = verify_card(folder / "card.json")
    assert verdict.items == [("0-two", "0, read as 'left'", "1, read as 'left'")]
    assert len(verdict.differs) == 2  # file and grade; the figures come from the rule


def test_changed_question(vsi: Make) -> None:
    folder = vsi()
    record = {"question_type": "route_planning", "ground_truth": "B", "options": ["A. a", "B. b"]}
    rewritten(folder / "replies.jsonl", "1", record=record)
    differs = verify_card(folder / "card.json").differs
    assert any(line.startswith("questions and records") for line in differs)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["scores"]["headline"].update(value=0.9), "scores.headline.value: 0.9 on"),
        (lambda c: c["scores"]["aggregates"]["micro"].update(ci95=[0, 1]), "micro.ci95[0]: 0 on"),
        (lambda c: c["scores"].update(unscored={"judge": 3}), "scores.unscored.judge: 3 on"),
        (lambda c: c["protocol"].update(frames=64), "protocol.frames: 64 on the card, 32"),
        (lambda c: c["hardware"].update(device="H200"), "content of the card: it was changed"),
        (lambda c: c["model"].update(weights_sha256="0"), "another model lies there now"),
    ],
)
def test_changed_card(vsi: Make, change: Callable[[Any], None], told: str) -> None:
    folder = vsi()
    changed(folder / "card.json", change)
    verdict = verify_card(folder / "card.json")
    assert not verdict.ok and told in verdict.text()


def test_deviation_that_was_taken_out(vsi: Make) -> None:
    folder = vsi(config={"frames": 8})
    changed(folder / "card.json", lambda card: card["protocol"].update(deviations=[]))
    assert "protocol.deviations" in verify_card(folder / "card.json").text()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: (f / "replies.jsonl").unlink(), "without replies nothing can be recomputed"),
        (
            lambda f: (f / "replies.jsonl").write_text("{}\n{}\n"),
            "holds 1 replies, the card scored 8",
        ),
        (lambda f: (f / "replies.jsonl").write_text("{}\n" * 9), "lacks what scoring reads"),
        (lambda f: (f / "replies.jsonl").write_text("{\n"), "line 1, is not JSON"),
        (lambda f: (f / "card.json").write_text("[]"), "holds a list, not a card"),
        (lambda f: (f / "card.json").write_text("{"), "is not JSON"),
        (
            lambda f: changed(f / "card.json", lambda c: c["benchmark"].update(name="vsi_bnech")),
            "unknown benchmark 'vsi_bnech'; did you mean vsi_bench?",
        ),
        (
            lambda f: changed(f / "card.json", lambda c: c["benchmark"]["settings"].update(x=1)),
            "unknown setting benchmark.settings.x",
        ),
        (
            lambda f: changed(
                f / "card.json", lambda c: c["benchmark"]["settings"].update(rule="best")
            ),
            "vsi_bench has no rule 'best'",
        ),
        (
            lambda f: changed(f / "card.json", lambda c: c.update(schema_version="2.0")),
            "schema 2.0",
        ),
        (lambda f: changed(f / "card.json", lambda c: c.pop("cost")), "lacks cost"),
        (lambda f: changed(f / "card.json", lambda c: c["replies"].update(rows="x")), "broken"),
        (lambda f: changed(f / "card.json", lambda c: c["model"].clear()), "missing or broken"),
        (lambda f: changed(f / "card.json", lambda c: c["scores"].clear()), "lacks what scoring"),
        (
            lambda f: changed(
                f / "card.json", lambda c: c["replies"].update(file="../../../../etc/passwd")
            ),
            "passwd does not exist",  # beside the card, and nowhere else
        ),
    ],
)
def test_what_cannot_be_recomputed(
    vsi: Make, spoil: Callable[[Path], Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = vsi()
    spoil(folder)
    assert main(["mode=verify", f"card={folder}"]) == 1
    fails = [line for line in capsys.readouterr().out.splitlines() if "FAILS" in line]
    assert len(fails) == 1 and told in fails[0]


def test_unscored_and_failed_replies(vsi: Make) -> None:
    folder = vsi()
    path = folder / "replies.jsonl"
    # The official code divides by the expected number.
    record = {"question_type": "object_counting", "ground_truth": "0", "options": None}
    rewritten(path, "0", record=record)
    rewritten(path, "1", reply="", parsed=None, score=0.0, correct=False, error="OSError: no file")
    found = verify_card(folder / "card.json").text()
    assert "scores.unscored" in found and "ZeroDivisionError" in found
    assert "scores.errors: 0 on the card, 1 recomputed" in found


def test_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, told, code in (
        (["mode=verify"], "add card=", 2),
        (["mode=verify", "card=x", "seed=1"], "seed has no effect on mode=verify", 2),
        (["mode=verify", f"card={tmp_path}"], "is no card and no folder with one", 1),
        (["card=x"], "card=PATH goes with mode=verify", 2),
    ):
        assert main(argv) == code
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    with pytest.raises(CardError, match="no card"):
        find_cards(tmp_path / "nothing")
