"""A trained generator as other libraries read it: weights in their formats, and a model card."""
