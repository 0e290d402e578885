"""The look: the same things on paper, with an ink line around them, the same bytes every time."""

import numpy as np

from data_synth.world import look, pictures


def test_things_stay_where_they_are_and_the_line_runs_around_them():
    shown = pictures.Description(1, "red", "ball", "teal", "close-up")
    plain, drawn = pictures.render(shown, 4, 64).astype(int), look.render(shown, 4, 64).astype(int)
    inside = np.abs(plain - plain[32, 32]).max(-1) == 0
    assert inside.sum() > 300 and (drawn[inside] == plain[inside]).all()
    ink = (drawn == look.INK).all(-1)
    rows, columns = np.nonzero(ink)
    assert 30 < ink.sum() < 300 and rows.min() < 32 < rows.max() and columns.min() < 32 < columns.max()
    ground = look.TINT * plain[0, 0] + (1 - look.TINT) * np.array(look.PAPER)
    assert np.abs(drawn[0, 0] - ground).max() <= 0.5


def test_it_follows_from_its_arguments():
    (shown,) = look.few(1)
    assert (look.render(shown, 1) == look.render(shown, 1)).all()
    assert len(set(look.few(10))) == 10 and look.few(10, seed=1) != look.few(10)
    assert all(pictures.split_of(one) == "train" for one in look.few(10))
