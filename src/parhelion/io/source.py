"""Pixels of views, wherever they are: the ``ParticleSource`` that reads image files."""

import threading
from collections import OrderedDict
from typing import Literal

import numpy as np

from parhelion.errors import FormatError, ParameterError
from parhelion.io.formats import open_images
from parhelion.io.stack import ImageStack
from parhelion.model.particles import ParticleSet

SCAN_PIXELS = 2**24


class StackSource:
    """Reads the images of ``particles``, protein white, from their stacks (``contracts.ParticleSource``).

    ``contrast`` says how protein looks in the files: ``black`` images are multiplied by -1. At most
    ``open_files`` stacks are kept open. Threads may share a source; a copy in another process opens the
    files itself. Raises FormatError where images are not square or differ in size.
    """

    def __init__(
        self, particles: ParticleSet, contrast: Literal["white", "black"] = "white", *, open_files: int = 64
    ) -> None:
        if contrast not in ("white", "black"):
            raise ParameterError(f"contrast is {contrast!r}, expected white or black")
        views = particles.views
        self.contrast = contrast
        self._paths, self._path_id, self._index = views.image_path, views.path_id, views.image_index
        self._open_files = open_files
        self._stacks: OrderedDict[int, ImageStack] = OrderedDict()
        self._lock = threading.Lock()
        self.box = 0
        self.box = self._stack(int(self._path_id[0])).shape[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_stacks": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._index)

    def images(self, views: np.ndarray) -> np.ndarray:
        """Images ``(len(views), box, box)`` float32, protein white, of these view rows, in their order.

        Raises FormatError where a row points past the end of its stack, InputError where a file is gone.
        """
        views = np.asarray(views)
        out = np.empty((len(views), self.box, self.box), dtype=np.float32)
        ids = self._path_id[views]
        for number in np.unique(ids):
            rows = np.flatnonzero(ids == number)
            out[rows] = self._stack(int(number)).read(self._index[views[rows]])
        if self.contrast == "black":
            np.negative(out, out=out)
        return out

    def scan(self, views: np.ndarray | None = None) -> np.ndarray:
        """Which of ``views`` (default: all) have bad images: NaN, infinite, or the same value everywhere."""
        views = np.arange(len(self)) if views is None else np.asarray(views)
        bad = np.zeros(len(views), bool)
        step = max(1, SCAN_PIXELS // (self.box * self.box))
        for start in range(0, len(views), step):
            images = self.images(views[start : start + step]).reshape(-1, self.box * self.box)
            least, greatest = images.min(axis=1), images.max(axis=1)
            # NaN spreads to both; infinities show in one
            bad[start : start + step] = ~(np.isfinite(least) & np.isfinite(greatest) & (least < greatest))
        return bad

    def _stack(self, number: int) -> ImageStack:
        with self._lock:
            stack = self._stacks.get(number)
            if stack is None:
                stack = open_images(self._paths[number])
                _, h, w = stack.shape
                if h != w or self.box not in (0, h):
                    expected = f"{self.box} x {self.box}" if self.box else "square"
                    raise FormatError(f"images in {stack.path} have {w} x {h} pixels, expected {expected}")
                self._stacks[number] = stack
                while len(self._stacks) > self._open_files:
                    self._stacks.popitem(last=False)
            self._stacks.move_to_end(number)
            return stack
