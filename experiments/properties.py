"""`dflare properties`: draw counterexamples, repair, and state what may be believed of the network then."""

from pathlib import Path

from dflare.errors import InputError
from experiments.claims import check_verifier, verify
from experiments.environment import file_hash
from experiments.properties_config import NONE, PropertiesConfig
from experiments.properties_inputs import Subject, open_subject
from experiments.properties_report import write_report
from experiments.properties_run import PropertyRun, draw, judged, kept, repair
from experiments.properties_text import summary_text
from experiments.runfolder import RunFolder, open_run, write_environment
from experiments.terminal import say

CONTROL = "plain"
"""The method that stands beside the one asked for."""


def properties(settings: PropertiesConfig) -> int:
    """Run the verb on the files of the settings; its exit code, 0 where the bound asked for holds and 1 where not."""
    return work(open_subject(settings.properties), settings)


def work(subject: Subject, settings: PropertiesConfig) -> int:
    """Draw, repair, judge and report in the run folder; what is there already is not done again; the exit code."""
    check_verifier(settings.properties.verifier)
    _check_export(settings.properties.export)
    with open_run(settings) as folder:
        _write_environment(folder, settings)
        run = PropertyRun(subject, settings, folder.round(0))
        run.folder.mkdir(exist_ok=True)
        say(f"{subject.wanted.name} on {subject.opened.path}, results in {folder.path}")
        drawn = None if settings.properties.method == NONE else draw(run)
        judged(run, drawn, "before", subject.opened.path)
        if drawn is not None and len(drawn.train[0]):
            method = settings.properties.method
            judged(run, drawn, "after", repair(run, drawn, method, folder.path / "repaired.onnx"))
            if method != CONTROL:
                judged(run, drawn, CONTROL, repair(run, drawn, CONTROL, run.folder / f"{CONTROL}.onnx"))
        after = folder.path / "repaired.onnx"
        verify(run, {"before": subject.opened.path} | ({"after": after} if after.exists() else {}))
        report = write_report(folder.path)
    print(summary_text(report))
    return 0 if report["gate"]["passed"] else 1


def _check_export(name: str | None) -> None:
    """Raise `InputError` where claims cannot be written, before anything else takes its time."""
    if name is not None and Path(name).exists() and not Path(name).is_dir():
        raise InputError(f"properties.export must be a folder, got the file {name}")


def _write_environment(folder: RunFolder, settings: PropertiesConfig) -> None:
    """Write or compare `environment.json`; raises `InputError` where a property or own samples became others."""
    asked = settings.properties
    named = [*asked.files, asked.counterexamples, asked.safe, asked.domain]
    hashes = {name: file_hash(Path(name)) for name in named if name is not None and Path(name).is_file()}
    path = folder.path / "environment.json"
    known = kept(path, "properties")["properties"] if path.exists() else {}
    if changed := [name for name, found in hashes.items() if known.get(name, found) != found]:
        raise InputError(
            f"the run folder {folder.path} was begun with another content of {changed[0]}; choose another run_dir"
        )
    write_environment(folder, {"network": Path(str(asked.model))}, {}, {"properties": hashes})
