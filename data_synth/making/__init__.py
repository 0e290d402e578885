"""The pair factory: captions in, audited preference pairs out, in stages that ranks and worker processes share."""

from data_synth.making.build import Built, build
from data_synth.making.options import Operator, Options

__all__ = ["Built", "Operator", "Options", "build"]
