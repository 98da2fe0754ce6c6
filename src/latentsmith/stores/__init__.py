"""Feature stores: what an encoder made of a dataset, computed once and kept with its proof."""
