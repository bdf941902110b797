"""A view that is made as it is asked for: an address ──▶ a page, a tile of a slide, a patch's picture. No file is named by it.

Answers are made one at a time: a slide that is open is not closed under a reader, and a mosaic is made once.
"""

import re
from collections import OrderedDict
from contextlib import ExitStack
from threading import Lock
from typing import NamedTuple

import numpy as np

from hnm.report.record import RunRecord
from hnm.view.ground import Ground, images_of, jpeg, open_ground
from hnm.view.pages import index_page, slide_page, viewer_files
from hnm.view.sight import Sight
from shards.cohort.slides import slide_key
from shards.reading.reader import PatchReader

MAX_OPEN = 4  # slides
TYPES = {"html": "text/html; charset=utf-8", "jpg": "image/jpeg", "js": "text/javascript; charset=utf-8", "txt": "text/plain"}
SLIDE = re.compile(r"slides/([A-Za-z0-9_-]+)\.html")
TILE = re.compile(r"slides/([A-Za-z0-9_-]+)_files/(\d{1,2})/(\d{1,6})_(\d{1,6})\.jpg")
PATCH = re.compile(r"patches/(\d{1,12})\.jpg")


class Answer(NamedTuple):
    """What an address has: its media type and content."""

    type: str
    content: bytes


class Site:
    """The view of a run; `close` it at the end."""

    def __init__(self, record: RunRecord, reader: PatchReader | None) -> None:
        self._sight, self._reader, self._lock = Sight(record), reader, Lock()
        self._slides = {slide_key(self._sight.name(slide)): slide for slide in self._sight.slides}
        self._open: OrderedDict[int, tuple[ExitStack, Ground]] = OrderedDict()

    def close(self) -> None:
        """Close the slides that are open."""
        while self._open:
            self._open.popitem()[1][0].close()

    def answer(self, address: str) -> Answer | None:
        """Return what is at an address, relative to the view's folder; None: nothing is."""
        with self._lock:
            content = self._content(address or "index.html")
        return None if content is None else Answer(TYPES[(address or "index.html").rpartition(".")[2]], content)

    def _content(self, address: str) -> bytes | None:
        if address == "index.html":
            return index_page(self._sight, set(self._sight.slides), lambda _: self._reader is not None).encode()
        if address in (files := viewer_files()):
            return files[address].read_bytes()
        if found := PATCH.fullmatch(address):
            return self._patch(int(found[1]))
        found = SLIDE.fullmatch(address) or TILE.fullmatch(address)
        if found is None or (slide := self._slides.get(found[1])) is None:
            return None
        ground = self._ground(slide)
        if found.re is TILE:
            return ground.tiles.tile(*(int(number) for number in found.groups()[1:]))
        pictures = None if self._reader is not None else []
        return slide_page(self._sight, slide, ground, pictures, set(self._sight.slides)).encode()

    def _patch(self, patch: int) -> bytes | None:
        if self._reader is None or patch >= self._sight.record.study.cohort.num_patches:
            return None
        (image,) = images_of(self._reader, np.array([patch]))
        return None if image is None else jpeg(image)

    def _ground(self, slide: int) -> Ground:
        if slide not in self._open:
            if len(self._open) == MAX_OPEN:
                self._open.popitem(last=False)[1][0].close()
            stack = ExitStack()
            self._open[slide] = stack, stack.enter_context(open_ground(self._sight.record, self._reader, slide, False))
        self._open.move_to_end(slide)
        return self._open[slide][1]
