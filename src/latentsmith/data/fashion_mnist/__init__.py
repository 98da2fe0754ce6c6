"""Fashion-MNIST: 70,000 grey images of clothes, 28×28, 10 classes (Xiao et al., 2017)."""

from latentsmith.data.fashion_mnist.config import FashionMNISTConfig

__all__ = ["FashionMNISTConfig"]
