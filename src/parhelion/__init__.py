"""parhelion: from electron micrographs to three-dimensional maps of molecules."""
__version__ = "0.1.0"
