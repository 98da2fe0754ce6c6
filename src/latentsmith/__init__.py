"""latentsmith: build, align, measure and generate with latent spaces.

Importing this package imports no torch: each part loads what it needs when it is used.
"""

__version__ = "0.1.0.dev0"
