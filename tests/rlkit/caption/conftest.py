"""Clips of noise for rounds of GRPO."""

import pytest

from data_synth.records import make_record
from rlkit.caption.dataset import Examples


class Clips:
    """A reader of noise, another clip for each name."""

    def __init__(self, make_clip):
        self.make_clip = make_clip

    def clip(self, video, start=None, end=None):
        return self.make_clip(6, seed=int(video[0]))


@pytest.fixture
def four_clips(make_clip):
    """(captioner) -> four clips as rows, and as rows.Example without captions."""

    def get(captioner):
        clips = [{"id": str(at), "video": f"{at}.mp4"} for at in range(4)]
        records = [make_record("Describe the video.", "A", [], videos=[row["video"]]) for row in clips]
        return clips, Examples(captioner, records, Clips(make_clip))

    return get
