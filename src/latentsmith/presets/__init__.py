"""Settings shipped with the package, composed by Hydra."""
