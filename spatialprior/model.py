"""The one root module: a backbone and the priors attached to it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from spatialprior.core.backbone import Backbone, Edit
from spatialprior.core.batch import IGNORE, ClipBatch
from spatialprior.core.injector import Needs, PriorInjector, check_clip_fields
from spatialprior.core.sites import Site
from spatialprior.core.terms import LossTerm
from spatialprior.geometry.scene import ScenePrediction
from spatialprior.objectives.language import CHUNK, answer_cross_entropy

log = logging.getLogger(__name__)

LANGUAGE_TERM = "language"


class PriorNameError(ValueError):
    """A prior has a name under which torch cannot keep it."""


def check_prior_names(names: Iterable[str]) -> None:
    """Raise :class:`PriorNameError` for a name that a ``ModuleDict`` does not take."""
    empty = nn.ModuleDict()
    for name in names:
        if not name.isidentifier() or hasattr(empty, name):
            raise PriorNameError(
                f"a prior cannot be named {name!r}: torch needs a plain name that it does not use itself"
            )


def check_one_reserves(needs: Mapping[str, Needs]) -> str | None:
    """The prior that reserves tokens, if any does.

    Raises:
        ValueError: Two do, and a token can take one path only; or none does, and a prior wants to read them.
    """
    reserving = [name for name, wanted in needs.items() if wanted.reserve is not None]
    if len(reserving) > 1:
        raise ValueError(
            f"priors {' and '.join(map(repr, reserving))} both send tokens of their own through the decoder, "
            "and a decoder has one other path; leave one out (prior=[...])"
        )
    readers = [name for name, wanted in needs.items() if wanted.reads_reserved]
    if readers and not reserving:
        raise ValueError(
            f"prior {readers[0]!r} reads tokens that another prior reserves, and none does; add one "
            "(prior=[geometry_expert,...]) or let it read the visual tokens"
        )
    return reserving[0] if reserving else None


class SpatialModel(nn.Module):
    """Runs the backbone once for all priors and returns every loss term.

    Priors do not see each other: taps are opened once for the union of their needs, edits run in the order
    in which the recipe lists the priors, and terms are named ``<prior>/<term>``.

    Args:
        backbone: The adapter around the stock model.
        priors: Name -> injector, not yet attached.
        language_weight: Factor of the answer cross-entropy in the total.

    Attributes:
        chunked_logits: Compute logits in chunks of answer tokens; otherwise once for all of them.

    Raises:
        PriorNameError: A prior has a name that torch keeps for itself.
    """

    def __init__(
        self, backbone: Backbone, priors: Mapping[str, PriorInjector], language_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_prior_names(priors)
        self.backbone = backbone
        self.language_weight = language_weight
        self.chunked_logits = True
        self._lockstep = False
        self.needs = {name: prior.needs(backbone.num_layers) for name, prior in priors.items()}
        reserving = check_one_reserves(self.needs)
        backbone.echo_views = any(needs.echo for needs in self.needs.values())
        backbone.reserve = self.needs[reserving].reserve if reserving else None
        if reserving and backbone.reserve is not None and backbone.reserve.alone:
            self._tell_idle(reserving)
        for name, prior in priors.items():
            backbone.check_edits(self.needs[name].edits)
            prior.attach(backbone)
        self._frozen = []
        if any(needs.frozen_backbone for needs in self.needs.values()):
            self._frozen = [p for p in backbone.parameters() if p.requires_grad]
            backbone.requires_grad_(False)
        self.priors = nn.ModuleDict(dict(priors))

    def _tell_idle(self, reserving: str) -> None:
        """Say which priors have nothing to do, as views bring no tokens but the reserved ones."""
        for name, needs in self.needs.items():
            if name != reserving and (needs.taps or needs.edits) and not needs.reads_reserved:
                log.warning(
                    "prior %r has nothing to read here: views go in as the tokens of %r alone",
                    name,
                    reserving,
                )

    @property
    def injectors(self) -> dict[str, PriorInjector]:
        """The attached priors by name, in the recipe's order."""
        return {name: cast("PriorInjector", prior) for name, prior in self.priors.items()}

    def blocks(self) -> list[nn.Module]:
        """Units in which the weights are sharded: the backbone's and the priors'."""
        own = (prior.blocks() for prior in self.injectors.values())
        return [*self.backbone.blocks(), *chain.from_iterable(own)]

    def set_lockstep(self, on: bool) -> None:
        """Run every part on every batch, with a zero loss where there is nothing to score.

        Processes that exchange gradients must all come by the same parameters, whatever their clips hold.
        """
        self._lockstep = on
        self.backbone.set_lockstep(on)

    def check_fields(self, batch: ClipBatch) -> None:
        """Raise :class:`MissingClipFieldError` where a clip lacks what a prior needs."""
        for name, needs in self.needs.items():
            check_clip_fields(name, needs, batch)

    def prepare(self, batch: ClipBatch) -> dict[str, Any]:
        """Each prior's context of a batch (targets, teacher features), without gradient."""
        return {name: prior.prepare(batch) for name, prior in self.injectors.items()}

    def counts(self, batch: ClipBatch, contexts: Mapping[str, Any]) -> dict[str, float]:
        """Items behind every loss term of a batch, by full term name."""
        counts = {LANGUAGE_TERM: float((batch.labels[:, 1:] != IGNORE).sum())}
        for name, prior in self.injectors.items():
            counts |= {f"{name}/{term}": n for term, n in prior.counts(contexts[name]).items()}
        return counts

    def edits(self, contexts: Mapping[str, Any]) -> dict[Site, list[Edit]]:
        """What the priors in ``contexts`` do to each edit site, in the recipe's order."""
        edits: dict[Site, list[Edit]] = {}
        for name, needs in self.needs.items():
            for site in needs.edits if name in contexts else ():
                edit = partial(self.injectors[name].edit, site, context=contexts[name])
                edits.setdefault(site, []).append(edit)
        return edits

    def serve(self) -> Backbone:
        """The backbone with the priors' edits in every pass that is given none, generation included."""
        self.backbone.editor = lambda batch: self.edits(self.prepare(batch))
        return self.backbone

    def forward(
        self, batch: ClipBatch, contexts: Mapping[str, Any] | None = None
    ) -> list[LossTerm]:
        """Loss terms of a batch: the language term where there are labels, then each prior's."""
        contexts = self.prepare(batch) if contexts is None else contexts
        scored = batch.has_labels or self._lockstep
        if not self.priors and not scored:
            return []
        sites = {site for needs in self.needs.values() for site in needs.taps}
        output = self.backbone(batch, tap_sites=sorted(sites), edits=self.edits(contexts))
        terms = [self._language(output.hidden, batch.labels)] if scored else []
        for name, prior in self.injectors.items():
            taps = {site: output.taps[site] for site in self.needs[name].taps}
            terms += [
                replace(term, name=f"{name}/{term.name}")
                for term in prior.losses(taps, contexts[name])
            ]
        return terms

    @torch.no_grad()
    def predict(self, batch: ClipBatch) -> dict[str, list[ScenePrediction]]:
        """The geometry of every clip of a batch, by each prior that says something of it."""
        contexts = self.prepare(batch)
        sites = {site for needs in self.needs.values() for site in needs.taps}
        output = self.backbone(batch, tap_sites=sorted(sites), edits=self.edits(contexts))
        found = {
            name: prior.predict({s: output.taps[s] for s in self.needs[name].taps}, contexts[name])
            for name, prior in self.injectors.items()
        }
        return {name: scenes for name, scenes in found.items() if scenes is not None}

    def _language(self, hidden: Tensor, labels: Tensor) -> LossTerm:
        chunk = CHUNK if self.chunked_logits else 0
        total, count = answer_cross_entropy(hidden, labels, self.backbone.logits, chunk)
        return LossTerm(LANGUAGE_TERM, total, float(count), self.language_weight)

    def detach(self) -> None:
        """Detach every prior; the backbone is stock again."""
        for prior in self.injectors.values():
            prior.detach()
        self.priors = nn.ModuleDict()
        self.needs = {}
        self.backbone.editor, self.backbone.echo_views = None, False
        self.backbone.reserve = None
        for parameter in self._frozen:
            parameter.requires_grad_(True)
