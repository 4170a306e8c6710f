"""An example plug-in: one new spatial prior outside of spatialprior."""
