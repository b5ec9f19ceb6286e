"""`dflare properties robustness.images=N`: repair an image classifier in balls around misbehaving images."""

from experiments.properties_config import NONE
from experiments.robustness_claims import check_claims, verify
from experiments.robustness_config import RobustnessConfig
from experiments.robustness_inputs import open_subject
from experiments.robustness_report import write_report
from experiments.robustness_run import RobustnessRun, find, judged, repair
from experiments.robustness_text import summary_text
from experiments.runfolder import open_run, write_environment
from experiments.terminal import say


def robustness(settings: RobustnessConfig) -> int:
    """Look, repair, judge and report in the run folder; what is there already is not done again.

    The exit code: 0 where the bound asked for holds for the repaired model, 1 where not.
    """
    check_claims(settings)
    with open_run(settings) as folder:
        subject = open_subject(settings)
        write_environment(folder, subject.sources, subject.fingerprints())
        run = RobustnessRun(subject, settings, folder.round(0))
        run.folder.mkdir(exist_ok=True)
        say(f"robustness of {settings.repaired}, results in {folder.path}")
        found, models = find(run), {"before": settings.repaired}
        judged(run, found, "before", settings.repaired)
        if settings.robustness.method != NONE and len(found.bad):
            target = folder.path / f"repaired{settings.repaired.suffix}"
            models["after"] = repair(run, found, target)
            judged(run, found, "after", target)
        verify(run, found, models)
        report = write_report(folder.path)
    print(summary_text(report))
    return 0 if report["gate"]["passed"] else 1
