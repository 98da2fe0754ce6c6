"""MM-Reg: manifold-matching regularisation of an image autoencoder."""
