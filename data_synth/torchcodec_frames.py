"""Frames by torchcodec, which is optional: the pictures that PyAV gives, decoded by the FFmpeg of the system.

On a CPU it is no faster, and it conceals damage inside a file that PyAV reports; hence it decodes only where
`decoder="torchcodec"` asks for it. Imported by video.py when needed, since torch comes with it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

AT_ONCE = 8  # frames decoded per call: all of a long 4K clip would not fit into memory


def problem() -> str | None:
    """Why torchcodec cannot be used here; None where it can."""
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"no video")  # loads FFmpeg's libraries before it reads
    except ImportError:
        return "it is not installed (pip install torchcodec)"
    except (RuntimeError, OSError) as error:
        if "Could not load libtorchcodec" in str(error):
            return "it finds no FFmpeg to load, or one of another version (apt-get install ffmpeg)"
    return None


def pictures(path: Path, indices: Sequence[int], seconds: Sequence[float], first: float) -> Iterator[np.ndarray]:
    """RGB uint8 [H, W, 3] of the frames `indices`, counted in the order of presentation, upright.

    `seconds` are their times by the file's index and `first` that of frame 0. Raises LookupError where torchcodec
    counts or times the frames otherwise, and RuntimeError where it cannot decode them.
    """
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC")
    if indices[-1] >= len(decoder):
        raise LookupError(f"torchcodec finds {len(decoder)} frames, frame {indices[-1]} was asked for.")
    origin = decoder.get_frame_at(0).pts_seconds - first
    for start in range(0, len(indices), AT_ONCE):
        batch = decoder.get_frames_at(list(indices[start : start + AT_ONCE]))
        expected = np.asarray(seconds[start : start + AT_ONCE]) + origin
        if np.abs(batch.pts_seconds.numpy() - expected).max() > 1e-3:
            raise LookupError("torchcodec times the frames otherwise.")
        yield from batch.data.numpy()
