"""One idea per file: pairwise geometry, KL, reconstruction, perceptual, adversarial…"""
