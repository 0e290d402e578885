"""The world: short rendered clips of shapes that take turns on a stage, with the events and times as truth.

The default data of every recipe and the one place where event order, verbosity and hallucination are known exactly.
"""

from data_synth.world.captions import Parsed, parse, probes, true_caption
from data_synth.world.render import FPS, SIZE, render
from data_synth.world.script import Event, Script, draw_script

__all__ = ["FPS", "SIZE", "Event", "Parsed", "Script", "draw_script", "parse", "probes", "render", "true_caption"]
