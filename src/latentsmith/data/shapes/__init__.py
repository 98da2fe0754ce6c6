"""Captioned shapes: procedural images whose every factor is known.

The built-in ground truth for geometry (factors), text-to-image (captions) and editing (edit
triples). `scene` says what there is, `render` draws it, `texts` describes it, `edits` changes
one thing in it, `config` makes a dataset of it.
"""

from latentsmith.data.shapes.config import ShapesConfig, ShapesDataset

__all__ = ["ShapesConfig", "ShapesDataset"]
