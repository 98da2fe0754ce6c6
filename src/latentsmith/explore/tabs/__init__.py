"""The tabs, a file each; `latentsmith.explore.tab` says what one is and finds them."""
