"""A worker that does not lead: it does its share of the searches it is told of, and says nothing."""

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NoReturn

from dflare.errors import InputError
from experiments.config import Config
from experiments.crew import Crew, Outcome, joined
from experiments.launching import end_with_starter
from experiments.opening import ALLOW_CODE
from experiments.process import prepare
from experiments.workers import LostWorker, Place


def serve(settings: Config, place: Place, arguments: Sequence[str]) -> NoReturn:
    """Work until the leader sends everyone home or is gone; ends the process.

    What is wrong with the input is told to the leader, who says it; anything unforeseen is printed here.
    """
    code = 130
    try:
        end_with_starter()
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            prepare(settings, place.here)
            with joined(place, arguments) as crew:
                work(settings, crew, ALLOW_CODE in arguments)
        code = 0
    except (KeyboardInterrupt, LostWorker):
        pass
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads may be waiting for a leader who is gone


def work(settings: Config, crew: Crew, allow_code: bool) -> None:
    """Search, share after share; models and images are opened for the first one, when the leader has made them."""
    from experiments.making import make_subject
    from experiments.runfolder import as_worker, check_same
    from experiments.searching import search_share

    subject, folder = None, Path(str(settings.run_dir))
    with ExitStack() as stack:
        while (task := crew.tell()) is not None:
            try:
                if subject is None:
                    stack.enter_context(as_worker(folder, crew.place.rank))
                    subject = make_subject(settings, False, allow_code, crew.place.rank % crew.place.here)
                    check_same(folder, subject.sources, subject.fingerprints())
                outcome = Outcome(late=search_share(subject, settings, task, crew.place))
            except InputError as error:
                outcome = Outcome(refusal=str(error))
            except OSError as error:
                outcome = Outcome(refusal=f"worker {crew.place.rank} could not read or write a file: {error}")
            crew.hear(outcome)
