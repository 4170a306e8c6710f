"""The public conformance suite: what every injector must do, ours or a third party's.

.. code-block:: python

    from spatialprior.testing import InjectorContract

    class TestPlane(InjectorContract):
        injector_class = PlanePrior
        config_kwargs = {"weight": 0.5}

Run it with pytest. It needs no data and no download: an untrained nano backbone and clips of a textured
plane with exact geometry.
"""

from __future__ import annotations

from spatialprior.testing.contract import InjectorContract
from spatialprior.testing.material import DummyObserver, plane_clip, tiny_backbone

__all__ = ["DummyObserver", "InjectorContract", "plane_clip", "tiny_backbone"]
