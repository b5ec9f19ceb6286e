"""The comparison of a GPU with the CPU: what it does without one, and its figures on two CPUs, which must be one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gpu
from experiments.process import prepare
from pairs import bench_folder

ROW = gpu.Row("dflare", "cuda:0", 2.0, 500.0, 7, 0.9, None, True, [])


@pytest.fixture
def own_process_settings():
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.mark.usefixtures("own_process_settings")
def test_without_a_gpu_it_says_so_and_leaves_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "usable_gpus", lambda: (0, "Found no NVIDIA driver on your system"))
    assert gpu.main(["--check", "--quick", "--json", str(tmp_path / "gpu.json")]) == 0
    said = capsys.readouterr().out
    assert said == ("nothing is measured without a GPU that torch can use: Found no NVIDIA driver on your system\n")
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["rows"] == []
    assert content["devices"] == [{"device": "cpu"}]


@pytest.mark.slow
@pytest.mark.usefixtures("own_process_settings")
@pytest.mark.skipif(not (bench_folder() / "models").is_dir(), reason="needs the pairs of DFLARE_BENCH")
def test_two_cpus_do_the_same() -> None:
    prepare(gpu.Config(threads=1))
    rows = gpu.measure_all([torch.device("cpu"), torch.device("cpu")], seeds=8, steps=4)
    assert [row.work for row in rows] == ["boundary", "boundary", "dflare", "dflare", "repair", "repair"]
    assert all(row.repeatable and not row.stays for row in rows)
    assert [row.same for row in rows] == [None, 1.0, None, 1.0, None, None]
    assert [row.apart for row in rows][-2:] == [None, 0.0]
    assert rows[0].found == rows[1].found > 0
    assert gpu._verdict(rows) == 0


@pytest.mark.parametrize("bad", [{"repeatable": False}, {"stays": ["no kernel"]}])
def test_a_search_that_is_not_repeatable_or_stays_falls_short(bad, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu._verdict([ROW]) == 0
    assert gpu._verdict([ROW, replace(ROW, **bad)]) == 1
    assert capsys.readouterr().err.startswith("short: dflare    cuda:0 ")


def test_a_repair_may_differ_from_run_to_run() -> None:
    assert gpu._verdict([replace(ROW, work="repair", found=None, repeatable=False)]) == 0
