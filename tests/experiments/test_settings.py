"""YAML files and `key=value` arguments: what is taken, in which order, and how a wrong one is refused."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from dflare.errors import InputError
from experiments.opening import Source, source_of
from experiments.settings import as_dict, check_ranges, load_config, shipped_configs, to_yaml

FILES = ("pair.original=a.pt2", "pair.compressed=b/c.pt2", "data.name=mnist")


def refusal(*arguments: str) -> str:
    """What `load_config` says against the arguments."""
    with pytest.raises(InputError) as caught:
        load_config(arguments)
    return str(caught.value)


def yaml(folder: Path, text: str | bytes, name: str = "some.yaml") -> str:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(folder / name)


def test_without_arguments_the_default_is_complete():
    settings = load_config([])
    assert settings.pair.name == "digits-cnn-pruned"
    assert settings.run_dir == "runs/digits-cnn-pruned"
    assert settings.gate.max_drawdown == 0.01
    assert (settings.split.train, settings.split.validate, settings.split.judge) == (0.6, 0.2, 0.2)
    assert settings.search.mutations is None  # the strategy's own


def test_two_configurations_share_no_list():
    load_config([]).search.seeds = 1
    assert load_config([]).search.seeds > 1


def test_later_files_win_over_earlier_ones_and_arguments_over_all(tmp_path: Path):
    first = yaml(tmp_path, "seed: 1\nthreads: 1\nloop: {rounds: 1}", "first.yaml")
    second = yaml(tmp_path, "threads: 2\nloop:\n  rounds: 2", "second.yaml")
    settings = load_config(["loop.rounds=3", first, second])
    assert (settings.seed, settings.threads, settings.loop.rounds) == (1, 2, 3)
    settings = load_config([second, first])
    assert (settings.threads, settings.loop.rounds) == (1, 1)


def test_of_two_arguments_for_one_key_the_later_wins():
    assert load_config(["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("search.max_seconds=1.5", "search.max_seconds", 1.5),
        ("search.max_seconds=3", "search.max_seconds", 3.0),
        ("gate.max_drawdown=null", "gate.max_drawdown", None),
        ("gate.beat_placebo=true", "gate.beat_placebo", True),
        ("search.mutations=[median_blur,average_blur]", "search.mutations", ["median_blur", "average_blur"]),
        ("data.root=a=b", "data.root", "a=b"),
        ("run_dir=runs/my run", "run_dir", "runs/my run"),
    ],
)
def test_an_argument_sets_its_key(argument: str, key: str, value: object):
    found: object = asdict(load_config([argument]))
    for part in key.split("."):
        found = found[part]  # type: ignore[index]
    assert found == value


@pytest.mark.parametrize(
    ("argument", "right"),
    [
        ("search.seedz=3", "search.seeds"),
        ("serch.seeds=3", "search.seeds"),
        ("gate.max_drawdawn=0.1", "gate.max_drawdown"),
        ("repair.lr=0.1", None),
        ("sed=3", "seed"),
        ("search.seeds.x=3", "search.seeds"),
        ("search.mutations.0=median_blur", "search.mutations"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(argument: str, right: str | None, tmp_path: Path):
    words = refusal(argument)
    assert words.startswith(f"unknown key {argument.partition('=')[0]} in the argument {argument}")
    assert right is None or words.endswith(f"did you mean {right}?")


def test_an_unknown_key_in_a_file_names_the_file(tmp_path: Path):
    path = yaml(tmp_path, "search:\n  seeds: 3\n  strateggy: dflare")
    assert refusal(path) == f"unknown key search.strateggy in {path}; did you mean search.strategy?"


@pytest.mark.parametrize(
    "argument",
    [
        "seed=x",
        "seed=1.5",
        "seed=",
        "seed=[1]",
        "search.seeds=many",
        "search.seeds={a: 1}",
        "search.mutations=median_blur",
        "gate.beat_placebo=perhaps",
        "gate.max_bytes=1.5",
        "data.root=[a,b]",
        "pair.name={a: b}",
        "fast_dev=2020-01-01",
    ],
)
def test_a_wrong_type_names_key_and_source(argument: str):
    words = refusal(argument)
    assert argument.partition("=")[0] in words
    assert f"in the argument {argument}" in words
    assert "\n" not in words


@pytest.mark.parametrize("argument", ["pair=5", "search=null", "gate=[1]", "=5", "search={"])
def test_an_argument_that_is_no_setting_is_refused(argument: str):
    assert argument in refusal(argument)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("search.seeds=0", "search.seeds must be in [1, "),
        ("search.max_queries=-3", "search.max_queries must be in [1, "),
        ("search.max_seconds=-1", "search.max_seconds must be in [0, inf], got -1"),
        ("search.batch_size=0", "search.batch_size must be in [1, "),
        ("repair.batch_size=1", "repair.batch_size must be in [2, "),
        ("repair.learning_rate=.nan", "repair.learning_rate must be in [0, 10], got nan"),
        ("repair.replay=1.5", "repair.replay must be in [0, 1], got 1.5"),
        ("probe.images=0", "probe.images must be in [1, "),
        ("loop.rounds=0", "loop.rounds must be in [1, 10000], got 0"),
        ("gate.max_drawdown=-0.1", "gate.max_drawdown must be in [0, 1], got -0.1"),
        ("gate.max_probe_rate=.nan", "gate.max_probe_rate must be in [0, 1], got nan"),
        ("gate.max_bytes=-1", "gate.max_bytes must be in [0, "),
        ("data.image_size=2", "data.image_size must be in [4, 4096], got 2"),
        ("threads=0", "threads must be in [1, 4096], got 0"),
        ("seed=-1", "seed must be in [0, "),
    ],
)
def test_a_number_out_of_range_says_the_range(argument: str, words: str):
    assert words in refusal(argument)


@pytest.mark.parametrize("value", ["${nowhere}", "${oc.env:DFLARE_NO_SUCH_VARIABLE}", "${seed.x}"])
def test_an_interpolation_that_leads_nowhere_is_refused(value: str):
    assert refusal(f"run_dir={value}").startswith("wrong value for run_dir")


def test_a_missing_file_hints_at_the_nearest_shipped_one():
    words = refusal("mnist-lenet.yaml")
    assert "found none at mnist-lenet.yaml" in words
    assert "did you mean mnist-lenet" in words
    assert "cifar10-vgg16" in words


def test_a_folder_is_no_configuration(tmp_path: Path):
    assert f"found none at {tmp_path}" in refusal(str(tmp_path))


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_configuration_loads_by_name_and_by_file(name: str):
    settings = [load_config([form]) for form in (name, f"{name}.yaml", f"configs/{name}.yaml", f"configs/{name}")]
    assert all(form == settings[0] for form in settings)
    assert settings[0].run_dir == f"runs/{settings[0].pair.name}"


def test_a_file_of_ones_own_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    yaml(tmp_path, "seed: 7", "mnist-lenet5.yaml")
    assert load_config(["mnist-lenet5.yaml"]).seed == 7
    assert load_config(["mnist-lenet5"]).seed == 0
    assert "found none at elsewhere/mnist-lenet5" in refusal("elsewhere/mnist-lenet5")


@pytest.mark.parametrize("name", [None, *shipped_configs()])
@pytest.mark.parametrize(
    "more", [(), ("fast_dev=true",), ("gate.max_drawdown=null", "run_dir='x: y'", "seed=4294967296")]
)
def test_resolved_settings_written_as_yaml_load_as_the_same(name: str | None, more: tuple[str, ...], tmp_path: Path):
    settings = load_config([*([name] if name else []), *more])
    again = load_config([yaml(tmp_path, to_yaml(settings))])
    assert again == settings
    assert as_dict(again) == asdict(settings)


def test_a_pair_of_files_written_as_yaml_loads_as_the_same(tmp_path: Path):
    settings = load_config(FILES)
    assert settings.run_dir == "runs/b-c-pt2"
    assert load_config([yaml(tmp_path, to_yaml(settings))]) == settings


SHOWN = ("models.both.range=[0,255]", "models.original.mean=[125.3,122.9,113.8]", "models.compressed.std=[63,62,66.7]")


def test_what_a_pair_of_files_is_shown_is_part_of_its_settings(tmp_path: Path):
    settings = load_config([*FILES, *SHOWN])
    models = settings.models
    assert (models.both.range, models.original.mean) == ([0.0, 255.0], [125.3, 122.9, 113.8])
    assert load_config([yaml(tmp_path, to_yaml(settings))]) == settings


def test_one_model_is_shown_what_both_are_where_nothing_else_is_said_of_it():
    models = load_config([*FILES, *SHOWN, "models.compressed.range=[-1,1]", "models.both.weights=w.pt"]).models
    original, compressed = (source_of("m.onnx", which, models, False) for which in ("original", "compressed"))
    assert (original.interface.range, compressed.interface.range) == ([0.0, 255.0], [-1.0, 1.0])
    assert (original.interface.std, compressed.interface.mean) == (None, None)
    assert original.weights == compressed.weights == Path("w.pt")
    assert compressed.at(Path("n.onnx")).interface == compressed.interface
    assert Source.from_json(json.loads(json.dumps(compressed.to_json()))) == compressed


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("models.both.range=[0,0]", "models.both.range must be two numbers, for black and for white"),
        ("models.both.range=[0,.nan]", "models.both.range must be two numbers"),
        ("models.both.range=[1]", "models.both.range must be two numbers"),
        ("models.original.mean=[]", "models.original.mean must be finite numbers, one or one a channel, got []"),
        ("models.both.mean=[.inf]", "models.both.mean must be finite numbers, one or one a channel, got [inf]"),
        ("models.compressed.mean=[1,2]", "models.compressed.mean and std must be of one length, got 2 and 3"),
        ("models.both.std=[1,0,1]", "models.both.std must be positive numbers, one or one a channel, got [1.0, 0.0"),
        ("models.both.mean=3", "wrong value for models.both.mean"),
        ("models.both.std=[a]", "wrong value for models.both.std"),
        ("models.both.layout=hwc", "models.both.layout must be one of nchw, nhwc, got 'hwc'"),
        ("models.both.channels=gray", "models.both.channels must be one of grey, rgb, bgr, got 'gray'"),
        ("models.both.fit=pad", "models.both.fit must be one of stretch, crop, got 'pad'"),
        ("models.both.scores=odds", "models.both.scores must be one of logits, probabilities, got 'odds'"),
        ("models.both.size=[224]", "models.both.size must be height and width in pixels"),
        ("models.both.classes=1", "models.both.classes must name two classes or more"),
        ("models.both.classes=all", "models.both.classes must be numbers and ranges"),
        ("models.both.classes=9-1", "models.both.classes must have ranges that go up"),
        ("preflight.min_agreement=2", "preflight.min_agreement must be in [0, 1]"),
        ("search.choose=best", "search.choose must be one of random, balanced, got 'best'"),
        ("trainer.accelerator=tpu", "trainer.accelerator must be one of auto, cpu, gpu, got 'tpu'"),
    ],
)
def test_an_interface_that_makes_no_sense_is_refused(argument: str, words: str):
    assert refusal(*FILES, *SHOWN, argument).startswith(words)


@pytest.mark.parametrize("argument", SHOWN)
@pytest.mark.parametrize("pair", [(), ("pair.name=digits-cnn-int8",), ("mnist-lenet5",)])
def test_models_of_the_zoo_are_shown_what_they_are(argument: str, pair: tuple[str, ...]):
    assert "the models of the zoo take images in [0, 1]" in refusal(*pair, argument)


@pytest.mark.parametrize("which", ["original", "compressed"])
def test_code_is_named_by_an_argument_and_never_by_a_file(which: str, tmp_path: Path):
    code = f"pair.{which}=my.models:build"
    settings = load_config([*FILES, code])
    for name in ("config.yaml", "own.yaml"):
        path = yaml(tmp_path, to_yaml(settings), name)
        assert refusal(path).startswith(f"{code} is code, which is never loaded because a file says so")
        assert load_config([path, code]) == settings
    trick = yaml(tmp_path, "data: {root: 'my.models:build'}", "trick.yaml")
    assert "never loaded because a file says so" in refusal(trick, *FILES, f"pair.{which}=${{data.root}}")
    broken = yaml(tmp_path, f"pair: {{{which}: '${{nope}}'}}", "broken.yaml")
    assert "nope" in refusal(broken, *FILES[:0])


def test_fast_dev_shrinks_numbers_but_raises_none():
    small = load_config(["fast_dev=true", "search.seeds=3", "repair.steps=1"])
    assert (small.search.seeds, small.search.validate_seeds, small.search.judge_seeds) == (3, 8, 8)
    assert (small.repair.steps, small.repair.validate_every, small.probe.images) == (1, 2, 50)
    assert small.search.max_queries == 20
    check_ranges(small)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (FILES[:1], "pair.compressed is missing"),
        (FILES[1:], "pair.original is missing"),
        ((*FILES[:1], "pair.name=digits-cnn-int8"), "pair.compressed is missing"),
        (FILES[:2], "needs data.root, a folder or file of images, or data.name"),
        ((*FILES, "pair.name=digits-cnn-int8"), "got both"),
    ],
)
def test_half_a_pair_and_two_pairs_are_refused(arguments: tuple[str, ...], words: str):
    assert words in refusal(*arguments)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("search: {seeds: 3\nfoo: [", "expected YAML in"),
        ("seed: 1\n\tthreads: 2", "(line 2)"),
        ("- seed\n- 1", "expected keys and values in"),
        ("hello", "unknown key hello in"),
        ("5", "expected YAML in"),
        ("5: 3", "unknown key 5 in"),
        ("seed: 1\nseed: 2", "duplicate key seed (line 2)"),
        ("seed: 1\n---\nseed: 2", "expected YAML in"),
        (b"\xff\xfe\x00\x80", "expected YAML in"),
        ("search:", "wrong value for search in"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(text: str | bytes, words: str, tmp_path: Path):
    path = yaml(tmp_path, text)
    said = refusal(path)
    assert words in said
    assert path in said
    assert "\n" not in said


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "~"])
def test_an_empty_file_changes_nothing(text: str, tmp_path: Path):
    assert load_config([yaml(tmp_path, text)]) == load_config([])


@pytest.mark.parametrize(
    "text",
    [
        'run_dir: !!python/object/apply:pathlib.Path.touch ["{path}"]',
        '!!python/object/apply:os.system ["touch {path}"]',
        "seed: !!python/object/apply:eval [\"open('{path}', 'w')\"]",
        "seed: !!python/name:os.system",
    ],
)
def test_a_file_that_asks_for_python_objects_is_refused_and_runs_nothing(text: str, tmp_path: Path):
    path = tmp_path / "ran"
    assert "expected YAML in" in refusal(yaml(tmp_path, text.replace("{path}", str(path))))
    assert not path.exists()
