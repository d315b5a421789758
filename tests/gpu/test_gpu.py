"""The one command for a GPU: on a GPU its goals, on a CPU that all of it runs."""

import json

import pytest
import torch

from tests.gpu.__main__ import main, run, table
from tests.gpu.checks import CHECKS, GOALS


@pytest.mark.slow
@pytest.mark.rehearsal
def test_every_check_runs_on_a_cpu_with_small_networks(tmp_path):
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    checks = report["checks"]
    assert list(checks) == [check.__name__ for check in CHECKS]
    assert not [name for name, found in checks.items() if "error" in found]
    for found in checks["equality"].values():
        if isinstance(found, dict):
            assert found["resumed_is_equal"]
            assert found["exact_in_company"]
    exact = checks["equality"]["float32"]
    assert exact["difference_to_diffusers"] < 1e-3 * exact["scale"]
    assert checks["memory"]["memory_retries"] > 0
    assert checks["memory"]["relative_difference_rms"] < 0.01
    assert checks["training"]["finite"]
    assert "| realised |" in (tmp_path / "gpu.md").read_text("utf-8")


@pytest.mark.slow
def test_checks_that_would_begin_too_late_are_left_out_and_named():
    report = run(torch.device("cpu"), minutes=-1)
    assert {"left_out"} == {key for found in report["checks"].values() for key in found}
    assert "minutes were over" in table(report)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_goals_on_a_gpu(tmp_path):
    assert main(["--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    checks = report["checks"]
    assert report["seconds"] < 9 * 60
    assert checks["host_reads"]["host_reads"] == 0
    for number, goal in GOALS.items():
        assert checks["realised"][str(number)]["realised"] >= goal
    for found in (checks["equality"][name] for name in ("float32", "float16")):
        assert found["resumed_is_equal"]
        assert found["exact_in_company"]
    assert checks["memory"]["memory_retries"] > 0
