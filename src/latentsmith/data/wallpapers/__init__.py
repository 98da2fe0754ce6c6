"""Twenty-six photographs of Debian's wallpapers, for networks that work on patches."""

from latentsmith.data.wallpapers.config import WallpapersConfig

__all__ = ["WallpapersConfig"]
