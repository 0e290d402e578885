"""Did the viewer go on? Continuation rewards from session logs; guard.py watches over what engages but is wrong.

A row `continued` where its session has a later page within `gap` seconds. Where the log ends before that could be seen,
nothing is known (NaN), which is not a "no". All items of one page share its fate, so valued over clicks.
"""

import numpy as np

from data_synth.errors import DataError
from data_synth.feedback.schema import Log


def continued(log: Log, gap: float) -> np.ndarray:
    """Float[rows]: 1 where the session went on to a later page within `gap` seconds, 0 where not, NaN where unknown.

    Raises DataError for a log without `time`.
    """
    if log.time is None or log.elapsed is None:
        raise DataError("continuation needs the columns `session` and `time`.")
    order = np.lexsort((log.time, log.session))
    session, time = log.session[order], log.time[order]
    new_page = np.append(True, (session[1:] != session[:-1]) | (time[1:] != time[:-1]))
    page = np.cumsum(new_page) - 1
    first = np.flatnonzero(new_page)
    until_next = np.full(len(first), np.inf)
    same = session[first[1:]] == session[first[:-1]]
    until_next[:-1][same] = (time[first[1:]] - time[first[:-1]])[same]
    found = np.empty(len(log))
    found[order] = until_next[page]
    return np.where(found <= gap, 1.0, np.where(log.elapsed > gap, 0.0, np.nan))
